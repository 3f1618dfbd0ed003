//! Names and addresses of nodes, as they come in heartbeats.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// A host name's length (RFC 1035), and a Kubernetes node's.
const NAME_MAX: usize = 253;

/// A node's name: letters, digits, `-`, `_` and `.`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// Checks a name.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "" => Err("it is empty"),
            long if long.len() > NAME_MAX => Err("it has more than 253 bytes"),
            text if !text.bytes().all(is_name_byte) => {
                Err("only letters, digits, `-`, `_` and `.` can be in it")
            }
            text => Ok(Self(text.into())),
        }
    }

    /// Less than every name.
    pub(crate) fn first() -> Self {
        Self("".into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)
}

/// Checks `host:port`, where a node is reached by others.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_endpoint(text: &str) -> Result<(), &'static str> {
    let (host, port) = text.rsplit_once(':').ok_or("it is not host:port")?;
    if !port.parse::<u16>().is_ok_and(|port| port != 0) {
        return Err("its port is none");
    }
    if let Some(inner) = host.strip_prefix('[') {
        let address = inner
            .strip_suffix(']')
            .and_then(|ip| ip.parse::<Ipv6Addr>().ok());
        return match address {
            None => Err("its host is no address"),
            Some(ip) if ip.is_unspecified() || ip.is_multicast() => {
                Err("its host is no address that others can reach")
            }
            Some(_) => Ok(()),
        };
    }
    if let Ok(ip) = host.parse::<Ipv4Addr>()
        && (ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast())
    {
        return Err("its host is no address that others can reach");
    }
    NodeId::parse(host).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_told_from_anything_else() {
        for good in ["a", "node-1.example", "N_2"] {
            assert_eq!(NodeId::parse(good).unwrap().as_str(), good);
        }
        let long = "a".repeat(254);
        for bad in ["", "a b", "a/b", "ä", "a\n", "*", &long] {
            assert!(NodeId::parse(bad).is_err(), "{bad:?}");
        }
        for good in ["10.0.0.1:7071", "[fd00::1]:1", "node:65535", "127.0.0.1:80"] {
            assert_eq!(check_endpoint(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "a",
            ":1",
            "a:",
            "a:0",
            "a:65536",
            "a:-1",
            "0.0.0.0:1",
            "[::]:1",
            "[ff02::1]:1",
            "224.0.0.1:1",
            "http://a:1",
            "fd00::1:1",
            "[a]:1",
            "a/b:1",
            "[::1:1",
        ] {
            assert!(check_endpoint(bad).is_err(), "{bad}");
        }
    }
}
