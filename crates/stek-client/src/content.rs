//! What a follower holds, whether one keyset or the feed of all, and why content that came is not
//! taken. The polling, the keeping and the erasing know no more of it than [`Content`].

use std::time::Duration;

use stek_core::bundle::{BundleError, Refusal};
use stek_core::id::ContentTag;
use stek_core::keyset::KeysetError;
use stek_core::name::KeysetName;
use stek_core::time::{Seconds, Timestamp};
use stek_wire::DecodeError;
use stek_wire::feed::FeedError;
use stek_wire::headers::FEED_WAIT;

use crate::backoff::Pace;

/// What is followed.
pub(crate) trait Content: Send + Sync + Sized + 'static {
    /// What a document says before it is held against what is installed.
    type Offer: Send + 'static;

    /// Reads a document and proves that it is sound in itself.
    fn decode(body: &[u8]) -> Result<Self::Offer, DecodeError>;

    /// The tag that the document gives itself.
    fn offer_tag(offer: &Self::Offer) -> ContentTag;

    /// What is there after `offer`, if it may follow on what is installed.
    fn join(
        offer: Self::Offer,
        installed: Option<&Self>,
        source: &Source,
    ) -> Result<Self, Rejected>;

    /// What is installed, as the next request names it.
    fn tag(&self) -> ContentTag;

    /// How to ask for it; none if it does not say.
    fn pace(&self) -> Option<Pace>;

    /// How many keys it holds.
    fn key_count(&self) -> usize;

    /// When the next of its keys must be erased.
    fn next_erasure(&self) -> Option<Timestamp>;

    /// When the last of its keys ends.
    fn last_end(&self) -> Option<Timestamp>;

    /// How long its keys last at the least while new ones come.
    fn least_span(&self) -> Seconds;

    /// The same without the keys whose time has come.
    fn erased_at(&self, now: Timestamp) -> Self;

    /// How long differences may be put together before all of it is fetched anew, if it comes in
    /// differences at all: they do not say what is forgotten.
    const DIFFERENCES_FOR: Option<Duration> = None;

    /// Whether all of it should be fetched anew though it has not changed.
    fn is_stale(&self, _now: Timestamp) -> bool {
        false
    }
}

/// Where content comes from on each upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Keyset(KeysetName),
    Feed,
}

impl Source {
    /// The path of the resource. Keyset names need no escaping.
    pub(crate) fn path(&self) -> String {
        match self {
            Self::Keyset(name) => format!("/v1/keysets/{name}"),
            Self::Feed => "/v1/feed".to_owned(),
        }
    }

    /// How long a server may wait that was configured to wait for `asked`. Whoever serves the feed on
    /// tells others how old what it has is.
    pub(crate) fn wait(&self, asked: Seconds) -> Seconds {
        match self {
            Self::Keyset(_) => asked,
            Self::Feed => asked.min(Seconds::new(FEED_WAIT.as_secs())),
        }
    }

    /// The keyset for labels and logs, empty for the feed.
    pub(crate) fn keyset(&self) -> &str {
        match self {
            Self::Keyset(name) => name.as_str(),
            Self::Feed => "",
        }
    }
}

/// Why content that came was not installed; what was installed before stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// It cannot be read, or is unsound in itself.
    #[error("document cannot be accepted")]
    Document(#[source] DecodeError),
    /// The entity tag and the document disagree.
    #[error("entity tag is {header}, but the document is {document}")]
    OtherTag {
        /// What the header said.
        header: ContentTag,
        /// What the document says.
        document: ContentTag,
    },
    /// The bundle may not replace what is installed.
    #[error("bundle cannot replace the installed one")]
    Bundle(#[source] Refusal),
    /// The update does not follow on the feed that is installed.
    #[error("feed update does not follow on the installed state")]
    Feed(#[source] FeedError),
    /// Reading the document ended in a panic.
    #[error("document made its reader panic")]
    Crashed,
}

impl Rejected {
    /// Every cause that [`Rejected::cause`] gives.
    pub const CAUSES: [&'static str; 14] = [
        "malformed",
        "wrong-kcv",
        "weak-key",
        "overlap",
        "repeated-key",
        "unsound",
        "other-tag",
        "other-keyset",
        "earlier-incarnation",
        "lower-revision",
        "other-content",
        "deleted",
        "other-base",
        "crashed",
    ];

    /// The cause in a word, as in the label of `stek_client_refused_bundles_total`.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Document(error) => document_cause(error),
            Self::OtherTag { .. } => "other-tag",
            Self::Bundle(refusal) => refusal_cause(refusal),
            Self::Feed(error) => feed_cause(error),
            Self::Crashed => "crashed",
        }
    }

    /// Whether fetching everything instead of a difference can help.
    pub(crate) fn wants_snapshot(&self) -> bool {
        matches!(self, Self::Feed(error) if error.wants_snapshot())
    }

    /// Whether the upstream only has not got so far yet.
    pub(crate) fn is_behind(&self) -> bool {
        matches!(self, Self::Feed(FeedError::LowerRevision { .. }))
    }
}

fn document_cause(error: &DecodeError) -> &'static str {
    match error {
        DecodeError::Bundle { source, .. } => match source {
            BundleError::WrongKcv { .. } => "wrong-kcv",
            BundleError::Weak { .. } => "weak-key",
            BundleError::Keyset(KeysetError::Overlap { .. }) => "overlap",
            BundleError::Keyset(KeysetError::DuplicateId(_) | KeysetError::DuplicateKcv { .. }) => {
                "repeated-key"
            }
            BundleError::Keyset(KeysetError::TooMany(_)) | BundleError::TooManyEnded(_) => {
                "unsound"
            }
        },
        DecodeError::Policy { .. } | DecodeError::Schedule { .. } => "unsound",
        _ => "malformed",
    }
}

fn refusal_cause(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::OtherKeyset { .. } => "other-keyset",
        Refusal::EarlierIncarnation { .. } => "earlier-incarnation",
        Refusal::LowerRevision { .. } => "lower-revision",
        Refusal::OtherContent { .. } => "other-content",
        Refusal::RepeatedKcv { .. } => "repeated-key",
    }
}

fn feed_cause(error: &FeedError) -> &'static str {
    match error {
        FeedError::EarlierIncarnation { .. } => "earlier-incarnation",
        FeedError::LowerRevision { .. } => "lower-revision",
        FeedError::Keyset { source, .. } => refusal_cause(source),
        FeedError::Undeleted { .. } | FeedError::EarlierDeletion { .. } => "deleted",
        FeedError::NoBase { .. }
        | FeedError::OtherBase { .. }
        | FeedError::AccessMissing { .. } => "other-base",
    }
}
