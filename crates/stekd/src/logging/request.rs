//! The name of the request that is being answered, in each line for people that is logged meanwhile.
//! Not by a span: that would be written out for each request, and hardly any of them logs a line.

use std::fmt;

use stek_http::request_id::RequestId;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

/// Writes what `0` does and, as the last field, `request_id`.
pub(super) struct NamesRequest<F>(pub(super) F);

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
