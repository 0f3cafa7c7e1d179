//! The name of the request that is being answered, in each line that is logged meanwhile. Not by a
//! span: that would be written out for each request, and hardly any of them logs a line.

use std::fmt;

use stek_http::request_id::RequestId;
use tracing::{Event, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Writes what `0` does, and `request_id`.
pub(super) struct NamesRequest<F>(pub(super) F);

/// For people: the last field.
impl<'writer, F: for<'any> FormatFields<'any>> FormatFields<'writer> for NamesRequest<F> {
    fn format_fields<R: RecordFields>(
        &self,
        mut writer: Writer<'writer>,
        fields: R,
    ) -> fmt::Result {
        self.0.format_fields(writer.by_ref(), fields)?;
        RequestId::current().map_or(Ok(()), |name| write!(writer, " request_id={name}"))
    }
}

/// For programs: the first member of the object.
impl<S, N, F> FormatEvent<S, N> for NamesRequest<F>
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
        let Some(name) = RequestId::current() else {
            return self.0.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        // Nothing in a name has to be escaped.
        write!(writer, "{{\"request_id\":\"{name}\",{}", line.strip_prefix('{').unwrap_or(&line))
    }
}
