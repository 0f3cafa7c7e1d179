//! nginx with one worker, serving a bundle as a file over the same TLS.

use std::net::TcpListener;
use std::path::Path;

use anyhow::{Context, Result};

use crate::distribution::machine::Cores;
use crate::distribution::process::{self, Process};
use crate::distribution::site::{KEYSET, Site};

/// nginx, running.
pub(crate) struct Nginx {
    process: Process,
    pub(crate) port: u16,
}

impl Nginx {
    /// Serves `bundle` where the distribution replica of `site` serves it.
    pub(crate) fn start(cores: &Cores, site: &Site, bundle: &[u8]) -> Result<Self> {
        let program = Path::new("nginx");
        let version = std::process::Command::new(program).arg("-v").output();
        let version =
            version.context("nginx is not there; on Debian: apt-get install nginx-light")?;
        println!("# {}", String::from_utf8_lossy(&version.stderr).trim());
        let files = site.path("nginx/v1/keysets");
        std::fs::create_dir_all(&files)?;
        std::fs::write(files.join(KEYSET), bundle)?;
        // It cannot be given port 0 and asked which it took.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let folder = site.path("nginx").display().to_string();
        let config = site.path("nginx.conf");
        std::fs::write(
            &config,
            configuration(&folder, &site.path("tls").display().to_string(), port),
        )?;
        let config = config.display().to_string();
        process::run(program, &["-t", "-q", "-p", &folder, "-c", &config])?;
        let arguments = ["-p", &folder, "-c", &config];
        let process = Process::start(cores.server, program, &arguments)?;
        Ok(Self { process, port })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }
}

/// One process, no log, everything kept open: nginx at its best for this work.
fn configuration(folder: &str, tls: &str, port: u16) -> String {
    format!(
        "daemon off; master_process off; pid {folder}/pid; error_log stderr crit;\n\
         events {{ worker_connections 16384; }}\n\
         http {{\n\
         access_log off; server_tokens off; sendfile on; tcp_nopush on;\n\
         keepalive_requests 1000000000; keepalive_timeout 1h;\n\
         open_file_cache max=16 inactive=1h; open_file_cache_valid 1h;\n\
         client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;\n\
         fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;\n\
         scgi_temp_path {folder}/scgi; default_type application/json;\n\
         server {{\n\
         listen 127.0.0.1:{port} ssl; root {folder};\n\
         ssl_certificate {tls}/server.pem; ssl_certificate_key {tls}/server.key;\n\
         ssl_protocols TLSv1.3; ssl_session_tickets off; ssl_session_cache off;\n\
         add_header Cache-Control no-store;\n\
         }}\n}}\n"
    )
}
