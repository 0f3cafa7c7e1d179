//! Whether spans are exported, and whither: the configuration of a role decides, else what the
//! environment says in the words of OpenTelemetry. How they travel is in `otlp`, which is there if
//! the program was built with the feature of that name.

#[cfg(feature = "otlp")]
mod otlp;

use anyhow::Result;
use reqwest::Url;
use tokio::runtime::Handle;
use tracing_subscriber::{Layer, Registry};

use crate::Refused;
use crate::cli::Command;
use crate::config::{self, TracesConfig, TracesSection};

/// What of a subscriber takes spans and has them exported.
pub(crate) type SpanLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Where a collector takes spans, behind the address that all signals have in common.
const PATH: &str = "/v1/traces";

/// The export of spans of this process, if there is one.
pub struct Traces {
    #[cfg(feature = "otlp")]
    export: Option<otlp::Export>,
}

impl Traces {
    /// Begins to export the spans of a role, on `runtime`, if its configuration or the environment
    /// names a collector. Single commands export nothing.
    ///
    /// # Errors
    /// [`Refused`] if that configuration cannot be read or names what is not allowed.
    pub fn start(command: &Command, runtime: &Handle) -> Result<Self> {
        let (service, config) = match command {
            Command::Manager(asked) => ("stekd-manager", Some(&asked.config)),
            Command::Distribution(asked) => ("stekd-distribution", Some(&asked.config)),
            Command::Terminator(asked) => ("stekd-terminator", Some(&asked.config)),
            Command::Dev(_) => ("stekd-dev", None),
            _ => return Ok(Self::none()),
        };
        let section = match config {
            Some(path) => config::read::<TracesConfig>(path)?.traces,
            None => None,
        };
        let environment = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let destination = Destination::choose(section, environment)?;
        Self::export(service, destination.as_ref(), runtime)
    }

    #[cfg(feature = "otlp")]
    fn none() -> Self {
        Self { export: None }
    }

    #[cfg(not(feature = "otlp"))]
    fn none() -> Self {
        Self {}
    }

    #[cfg(feature = "otlp")]
    fn export(
        service: &'static str,
        destination: Option<&Destination>,
        runtime: &Handle,
    ) -> Result<Self> {
        let begin = |to| otlp::Export::begin(service, to, runtime);
        Ok(Self { export: destination.map(begin).transpose()? })
    }

    #[cfg(not(feature = "otlp"))]
    fn export(_: &'static str, destination: Option<&Destination>, _: &Handle) -> Result<Self> {
        match destination {
            // The variables of OpenTelemetry are often there for all programs of a machine.
            Some(Destination { named_by: ENDPOINT, .. }) => {
                let need = "traces: this program was built without the feature otlp";
                Err(Refused(need.into()).into())
            }
            _ => Ok(Self::none()),
        }
    }

    /// What takes the spans; nothing if nobody wants them.
    pub(crate) fn layer(&self) -> Option<SpanLayer> {
        #[cfg(feature = "otlp")]
        return self.export.as_ref().map(otlp::Export::layer);
        #[cfg(not(feature = "otlp"))]
        None
    }

    /// Exports what is left, for three seconds at most.
    pub fn flush(self) {
        #[cfg(feature = "otlp")]
        if let Some(export) = self.export {
            export.flush();
        }
    }
}

/// The key of the configuration.
const ENDPOINT: &str = "traces.endpoint";

/// The collector.
#[cfg_attr(not(feature = "otlp"), allow(dead_code, reason = "only asked whether there is one"))]
#[derive(Debug)]
struct Destination {
    /// Where spans are taken.
    url: Url,
    /// Who says so.
    named_by: &'static str,
    /// The authorities to trust; those of the system if there are none.
    roots_files: Vec<std::path::PathBuf>,
}

impl Destination {
    fn choose(
        section: Option<TracesSection>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, Refused> {
        let says =
            |name, text: &str| environment(name).is_some_and(|is| is.eq_ignore_ascii_case(text));
        if says("OTEL_SDK_DISABLED", "true") || says("OTEL_TRACES_EXPORTER", "none") {
            return Ok(None);
        }
        if let Some(TracesSection { endpoint, roots_files }) = section {
            let url = with_path(parse(ENDPOINT, &endpoint)?);
            return Ok(Some(Self { url, named_by: ENDPOINT, roots_files }));
        }
        let (of_traces, of_all) =
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT");
        let (url, named_by) = match (environment(of_traces), environment(of_all)) {
            (Some(text), _) => (parse(of_traces, &text)?, of_traces),
            (None, Some(text)) => (with_path(parse(of_all, &text)?), of_all),
            (None, None) => return Ok(None),
        };
        Ok(Some(Self { url, named_by, roots_files: Vec::new() }))
    }
}

fn parse(name: &str, text: &str) -> Result<Url, Refused> {
    let error = || {
        let value = if text.contains('@') { "a URL with credentials" } else { text };
        let allowed = "http:// or https://, host[:port] and a path, without query or credentials";
        Refused(format!("{name} is {value}, allowed is {allowed}"))
    };
    let url = Url::parse(text).map_err(|_| error())?;
    let bare = url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    if ["http", "https"].contains(&url.scheme()) && bare { Ok(url) } else { Err(error()) }
}

/// The base address with the path for traces behind it.
fn with_path(mut base: Url) -> Url {
    let path = format!("{}{PATH}", base.path().trim_end_matches('/'));
    base.set_path(&path);
    base
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(
        endpoint: Option<&str>,
        variables: &[(&str, &str)],
    ) -> Result<Option<String>, String> {
        let section = endpoint.map(|endpoint| TracesSection {
            endpoint: endpoint.to_owned(),
            roots_files: Vec::new(),
        });
        let environment = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let chosen = Destination::choose(section, environment).map_err(|error| error.0)?;
        Ok(chosen.map(|chosen| chosen.url.to_string()))
    }

    const ALL: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318/");
    const TRACES: (&str, &str) = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces/spans");

    #[test]
    fn the_configuration_comes_first_and_then_the_nearest_variable() {
        let found = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(chosen(None, &[]), Ok(None));
        assert_eq!(chosen(None, &[ALL]), found("http://all:4318/v1/traces"));
        assert_eq!(chosen(None, &[ALL, TRACES]), found("https://traces/spans"));
        let file = chosen(Some("https://file:4318/in"), &[ALL, TRACES]);
        assert_eq!(file, found("https://file:4318/in/v1/traces"));
    }

    #[test]
    fn it_can_be_turned_off_from_outside() {
        for off in [("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_TRACES_EXPORTER", "none")] {
            assert_eq!(chosen(Some("http://file"), &[ALL, off]), Ok(None));
        }
        assert!(chosen(None, &[ALL, ("OTEL_SDK_DISABLED", "false")]).unwrap().is_some());
    }

    #[test]
    fn an_address_that_is_not_allowed_is_named_and_credentials_are_not_repeated() {
        for bad in ["collector:4318", "ftp://collector", "http://collector/?key=1"] {
            let error = chosen(Some(bad), &[]).unwrap_err();
            assert!(error.starts_with(&format!("traces.endpoint is {bad}, allowed is http")));
        }
        let error = chosen(None, &[(ALL.0, "http://me:secret@collector")]).unwrap_err();
        assert!(error.starts_with("OTEL_EXPORTER_OTLP_ENDPOINT is a URL with credentials, "));
        assert!(!error.contains("secret"));
    }
}
