//! Entry point: parses the command line, starts the runtime, prints an error once.

use std::process::ExitCode;

use stekd::cli::help;

fn main() -> ExitCode {
    let cli = match help::try_parse() {
        Ok(cli) => cli,
        Err(shown) => return show(&shown),
    };
    // The process has one cryptographic provider; libraries that ask for the default get it.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("cannot start")),
    };
    let traces = match stekd::Traces::start(&cli.command, runtime.handle()) {
        Ok(traces) => traces,
        Err(error) => return fail(&error),
    };
    stekd::init_logging(cli.log_format, cli.command.log_level(), &traces);
    harden();
    let outcome = runtime.block_on(stekd::run(cli));
    traces.flush();
    // Whatever still runs in the background has been told to stop and was waited for.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Help and version end well; an argument that is not allowed ends like a configuration that is not.
fn show(shown: &clap::Error) -> ExitCode {
    // Nothing can be done about a closed terminal.
    let _ = shown.print();
    if shown.use_stderr() { ExitCode::from(stekd::USAGE) } else { ExitCode::SUCCESS }
}

#[allow(clippy::print_stderr, reason = "this is how a command says why it failed")]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("stekd: {}", stekd::said(error));
    ExitCode::from(stekd::exit_code(error))
}

/// No core file may hold keys. Best effort: a limit that is lower already cannot be raised.
fn harden() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "core files cannot be turned off");
    }
}
