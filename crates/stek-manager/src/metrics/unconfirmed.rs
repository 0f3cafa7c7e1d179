//! How many instances lack the newest content of each keyset, worked out when somebody asks: what
//! replicas say comes and goes between passes.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts, Registry};
use stek_core::feed::FeedState;
use tokio::sync::watch;

use super::signed;
use crate::confirmations::Confirmations;

/// Whoever collects sets the numbers first, one at a time. A series for each keyset that is published.
struct Unconfirmed {
    instances: IntGaugeVec,
    collecting: Mutex<()>,
    feed: watch::Receiver<Option<Arc<FeedState>>>,
    confirmations: Arc<Confirmations>,
}

/// Registers `stek_manager_unconfirmed_instances`.
pub(crate) fn register(
    registry: &Registry,
    feed: watch::Receiver<Option<Arc<FeedState>>>,
    confirmations: Arc<Confirmations>,
) -> Result<(), prometheus::Error> {
    let options = Opts::new(
        "stek_manager_unconfirmed_instances",
        "Instances that poll a keyset and hold less than its newest published revision.",
    );
    let instances = IntGaugeVec::new(options, &["keyset"])?;
    let collecting = Mutex::default();
    registry.register(Box::new(Unconfirmed { instances, collecting, feed, confirmations }))
}

impl Collector for Unconfirmed {
    fn desc(&self) -> Vec<&Desc> {
        self.instances.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let _alone = self.collecting.lock().unwrap_or_else(PoisonError::into_inner);
        self.instances.reset();
        let feed = self.feed.borrow().clone();
        let census = self.confirmations.current();
        for (name, bundle) in feed.iter().flat_map(|feed| &feed.keysets) {
            let tag = bundle.tag();
            let standing = census.standing(tag.incarnation, name, tag.revision);
            let lagging = standing.map_or(0, |standing| standing.lagging())
                + census.uncounted(tag.incarnation, name, tag.revision);
            self.instances.with_label_values(&[name.as_str()]).set(signed(lagging));
        }
        self.instances.collect()
    }
}
