//! A throwaway container, for machines with Docker and without server programs.

use std::ffi::OsStr;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;

use crate::watchdog::Watchdog;

/// The image, by its tag on Docker Hub.
pub(crate) const IMAGE: &str = "postgres:16-alpine";

const CONNECT_TIME_OUT: Duration = Duration::from_secs(10);

/// A container with a published port. Dropping it removes the container.
#[derive(Debug)]
pub(crate) struct Container {
    _watchdog: Watchdog,
    _directory: TempDir,
    address: SocketAddr,
}

impl Container {
    /// Starts [`IMAGE`] with the program `docker`, a name on the PATH or a path.
    ///
    /// # Errors
    ///
    /// Docker fails, for example to fetch the image, or its ports are not on this machine.
    pub(crate) fn start(docker: &OsStr) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir().context("cannot create a temporary directory")?;
        let arguments = [docker, OsStr::new(IMAGE), directory.path().as_os_str()];
        let mut watchdog = Watchdog::start(include_str!("container.sh"), &arguments, None)?;
        let address = watchdog.order("start").with_context(|| {
            let log = std::fs::read_to_string(directory.path().join("control.log"));
            format!("cannot run {IMAGE} with Docker:\n{}", log.unwrap_or_default().trim_end())
        })?;
        let address = address
            .parse()
            .with_context(|| format!("Docker published the server as `{address}`"))?;
        TcpStream::connect_timeout(&address, CONNECT_TIME_OUT)
            .with_context(|| format!("Docker published the server on {address}"))?;
        Ok(Self { _watchdog: watchdog, _directory: directory, address })
    }

    /// The published address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    /// A stand-in for the program: notes its arguments, and publishes the given port.
    fn docker_stub(directory: &TempDir, port: u16) -> PathBuf {
        let program = directory.path().join("docker");
        let script = format!(
            "#!/bin/sh\necho \"$*\" >>\"$(dirname \"$0\")/calls\"\ncase $1 in\nrun) echo c0ffee ;;\n\
             port) echo 127.0.0.1:{port} ;;\nesac\n"
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        program
    }

    #[test]
    fn the_container_is_removed_with_the_value() {
        let directory = tempfile::tempdir().unwrap();
        let published = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = published.local_addr().unwrap();
        let docker = docker_stub(&directory, address.port());

        let container = Container::start(docker.as_os_str()).unwrap();
        assert_eq!(container.address(), address);
        let calls = || std::fs::read_to_string(directory.path().join("calls")).unwrap();
        assert!(calls().starts_with("run --rm --detach --publish 127.0.0.1::5432 "), "{}", calls());
        assert!(!calls().contains("rm --force"), "{}", calls());
        drop(container);
        assert!(calls().ends_with("rm --force --volumes c0ffee\n"), "{}", calls());
    }

    #[test]
    fn a_failing_docker_is_reported() {
        let error = format!("{:#}", Container::start(OsStr::new("/bin/false")).unwrap_err());
        assert!(error.contains(IMAGE) && error.contains("status 1"), "{error}");
    }
}
