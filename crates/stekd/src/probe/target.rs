//! The servers that are probed, and the name by which all of them are asked.

use std::fmt;

use rustls::pki_types::ServerName;

use crate::Refused;

/// A server as it was written: `HOST:PORT`, with an IPv6 address in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    text: String,
    host: String,
}

impl Target {
    /// Reads `HOST:PORT`.
    ///
    /// # Errors
    /// A sentence for a person if it is something else.
    pub fn parse(text: &str) -> Result<Self, String> {
        let allowed = "allowed is HOST:PORT, such as www.example.org:443 or [2001:db8::1]:443";
        let refuse = || format!("{text:?} is no server: {allowed}");
        let (host, port) = text.rsplit_once(':').ok_or_else(refuse)?;
        port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(refuse)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bare {
            Some(address) if address.contains(':') => address,
            None if !host.contains(':') => host,
            _ => return Err(refuse()),
        };
        ServerName::try_from(host).map_err(|_| refuse())?;
        Ok(Self { text: text.to_owned(), host: host.to_owned() })
    }

    /// Where to connect.
    pub(super) fn address(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The name that the client gives to every one of `targets`. Tickets are given for a name: one that
/// is offered under another says nothing of the keys.
///
/// # Errors
/// [`Refused`] if there is more than one name to choose from.
pub(crate) fn server_name(
    targets: &[Target],
    asked: Option<&str>,
) -> Result<ServerName<'static>, Refused> {
    let name = match (asked, targets) {
        (Some(asked), _) => asked,
        (None, [first, rest @ ..]) => {
            if rest.iter().any(|target| target.host != first.host) {
                let need = "the servers have several names: give the one that clients of the fleet \
                            use with --server-name";
                return Err(Refused(need.into()));
            }
            &first.host
        }
        (None, []) => return Err(Refused("no server to probe".into())),
    };
    ServerName::try_from(name.to_owned()).map_err(|_| {
        Refused(format!("--server-name is {name:?}, allowed is a DNS name or an IP address"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(texts: &[&str]) -> Vec<Target> {
        texts.iter().map(|text| Target::parse(text).unwrap()).collect()
    }

    #[test]
    fn only_host_and_port_is_a_server() {
        for good in ["localhost:443", "192.0.2.1:8443", "[::1]:443", "a.example:65535"] {
            assert_eq!(Target::parse(good).unwrap().to_string(), good);
        }
        for bad in [
            "",
            "localhost",
            "localhost:",
            "localhost:0",
            "localhost:65536",
            "::1:443",
            "[::1]",
            "https://localhost:443",
            ":443",
            "a b:443",
            "[localhost]:443",
        ] {
            let words = Target::parse(bad).unwrap_err();
            assert!(words.contains("HOST:PORT") && words.contains(bad), "{bad}: {words}");
        }
    }

    #[test]
    fn one_name_is_given_to_all() {
        let name = |texts: &[&str], asked| server_name(&targets(texts), asked);
        assert_eq!(name(&["a:1", "a:2"], None).unwrap().to_str(), "a");
        assert_eq!(name(&["a:1", "b:2"], Some("www")).unwrap().to_str(), "www");
        assert!(name(&["a:1", "b:2"], None).unwrap_err().0.contains("--server-name"));
        assert!(name(&["a:1"], Some("a b")).unwrap_err().0.contains("a b"));
    }
}
