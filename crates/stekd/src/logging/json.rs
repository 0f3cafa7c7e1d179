//! What the lines for programs lack: the name of the request that is being answered, and what caused
//! an error, of which the library writes the first sentence only.

use std::error::Error;
use std::fmt;

use stek_http::request_id::RequestId;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Writes the object that `0` writes, with further members before the others: `request_id`, and the
/// causes of each error under its name and `.sources`, as the lines for people have them.
pub(super) struct Completed<F>(pub(super) F);

impl<S, N, F> FormatEvent<S, N> for Completed<F>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut more = Members::default();
        if let Some(name) = RequestId::current() {
            more.add("request_id", &name.to_string());
        }
        event.record(&mut more);
        if more.0.is_empty() {
            return self.0.format_event(context, writer, event);
        }
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        write!(writer, "{{{}{}", more.0, line.strip_prefix('{').unwrap_or(&line))
    }
}

/// Members of an object, each with a comma behind it.
#[derive(Default)]
struct Members(String);

impl Members {
    fn add(&mut self, name: &str, value: &(impl serde::Serialize + ?Sized)) {
        let json = serde_json::to_string(name)
            .and_then(|name| serde_json::to_string(value).map(|value| format!("{name}:{value},")));
        // Strings and lists of them can always be written.
        self.0.extend(json);
    }
}

impl Visit for Members {
    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}

    fn record_error(&mut self, field: &Field, error: &(dyn Error + 'static)) {
        let causes = std::iter::successors(error.source(), |cause| (*cause).source());
        let causes: Vec<_> = causes.map(ToString::to_string).collect();
        if !causes.is_empty() {
            self.add(&format!("{field}.sources"), &causes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("no peer gave the state")]
    struct Refused(#[source] Cause);

    #[derive(Debug, thiserror::Error)]
    #[error("status \"403\"")]
    struct Cause;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(log: impl FnOnce()) -> serde_json::Value {
        let lines = Lines::default();
        let to = lines.clone();
        let layer = tracing_subscriber::fmt::layer().json().with_writer(move || to.clone());
        let layer = layer.map_event_format(Completed);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let written = lines.0.lock().unwrap();
        serde_json::from_slice(&written).unwrap()
    }

    #[test]
    fn the_causes_of_an_error_are_written() {
        let refused = Refused(Cause);
        let line = logged(|| tracing::warn!(error = &refused as &dyn Error, "not joined"));
        assert_eq!(line["error.sources"], serde_json::json!(["status \"403\""]));
        assert_eq!(line["fields"]["error"], "no peer gave the state");
        assert_eq!(line["fields"]["message"], "not joined");
    }

    #[test]
    fn a_line_without_them_is_as_the_library_writes_it() {
        for line in [
            logged(|| tracing::warn!(error = &Cause as &dyn Error, "not joined")),
            logged(|| tracing::info!(port = 1, "serving")),
        ] {
            let members: Vec<_> = line.as_object().unwrap().keys().collect();
            assert_eq!(members, ["fields", "level", "target", "timestamp"]);
        }
    }
}
