//! The owners of the slots of a cluster, and redirections. Pure.

use std::fmt;

use redis::{ErrorKind, RedisError, ServerErrorKind, Value};

use super::super::slots::SLOT_COUNT;
use crate::storage::net::Endpoint;
use crate::storage::tls::TlsSettings;

/// The address of a server, as the cluster announces it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) struct Address {
    pub(in super::super) host: String,
    pub(in super::super) port: u16,
}

impl Address {
    pub(in super::super) fn endpoint(&self, tls: Option<&TlsSettings>) -> Endpoint {
        Endpoint::Tcp { host: self.host.clone(), port: self.port, tls: tls.cloned() }
    }

    pub(super) fn is_at(&self, endpoint: &Endpoint) -> bool {
        match endpoint {
            Endpoint::Tcp { host, port, .. } => *host == self.host && *port == self.port,
            Endpoint::Unix(_) => false,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.endpoint(None).fmt(f)
    }
}

/// The reason why a description of a cluster cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LayoutError {
    /// It has another form than `CLUSTER SLOTS`.
    #[error("the layout of the cluster cannot be understood")]
    Malformed,
    /// No server owns some slots.
    #[error("the cluster does not serve slot {0}")]
    Uncovered(u16),
    /// The server does not know the address of another one.
    #[error("the cluster does not know the address of the owner of slot {0}")]
    Unknown(u16),
}

/// The owners of all slots.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Each master once.
    masters: Vec<Address>,
    replicas: Vec<Address>,
    /// The last slot of each range, ascending, and the place of its master.
    ranges: Vec<(u16, usize)>,
}

impl Layout {
    /// Reads the answer to `CLUSTER SLOTS` of the server at `asked`.
    pub(super) fn parse(answer: &Value, asked: &str) -> Result<Self, LayoutError> {
        let Value::Array(entries) = answer else { return Err(LayoutError::Malformed) };
        let mut found = entries.iter().map(range).collect::<Result<Vec<_>, _>>()?;
        found.sort_unstable_by_key(|range| range.first);
        let mut layout = Self { masters: Vec::new(), replicas: Vec::new(), ranges: Vec::new() };
        let mut next = 0;
        for range in found {
            if range.first != next || range.last < range.first {
                return Err(LayoutError::Uncovered(next));
            }
            let (master, replicas) = range.servers.split_first().ok_or(LayoutError::Malformed)?;
            let master = address(master, asked).ok_or(LayoutError::Unknown(next))?;
            let place = layout.masters.iter().position(|known| *known == master);
            let place = place.unwrap_or_else(|| {
                layout.masters.push(master);
                layout.masters.len() - 1
            });
            layout.ranges.push((range.last, place));
            for replica in replicas.iter().filter_map(|server| address(server, asked)) {
                if !layout.replicas.contains(&replica) {
                    layout.replicas.push(replica);
                }
            }
            next = range.last.checked_add(1).ok_or(LayoutError::Malformed)?;
        }
        if next == SLOT_COUNT { Ok(layout) } else { Err(LayoutError::Uncovered(next)) }
    }

    /// All masters; the places that other functions return are indices of this list.
    pub(super) fn masters(&self) -> &[Address] {
        &self.masters
    }

    /// All servers.
    pub(super) fn servers(&self) -> impl Iterator<Item = &Address> {
        self.masters.iter().chain(&self.replicas)
    }

    /// The place of the master that owns the slot.
    pub(super) fn owner(&self, slot: u16) -> usize {
        let at = self.ranges.partition_point(|(last, _)| *last < slot);
        // `parse` ensures that all slots below SLOT_COUNT are covered.
        self.ranges.get(at).map_or(0, |(_, place)| *place)
    }
}

struct Range<'a> {
    first: u16,
    last: u16,
    servers: &'a [Value],
}

fn range(entry: &Value) -> Result<Range<'_>, LayoutError> {
    let Value::Array(fields) = entry else { return Err(LayoutError::Malformed) };
    let [Value::Int(first), Value::Int(last), servers @ ..] = &fields[..] else {
        return Err(LayoutError::Malformed);
    };
    let slot = |number: &i64| u16::try_from(*number).map_err(|_| LayoutError::Malformed);
    Ok(Range { first: slot(first)?, last: slot(last)?, servers })
}

/// The address of a server. Without a host (nil or empty) it is the server that answered; `?` means
/// that the host is unknown (Redis: CLUSTER SLOTS).
fn address(server: &Value, asked: &str) -> Option<Address> {
    let Value::Array(fields) = server else { return None };
    let [name, Value::Int(port), ..] = &fields[..] else { return None };
    let host =
        if let Value::BulkString(name) = name { std::str::from_utf8(name).ok()? } else { "" };
    let host = match host {
        "?" => return None,
        "" => asked,
        host => host,
    };
    Some(Address { host: host.to_owned(), port: u16::try_from(*port).ok()? })
}

/// The redirection by a server that does not have the key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    /// The slot belongs to another server.
    Moved(Address),
    /// The slot is being moved, and this key is already at the other server or does not exist.
    Ask(Address),
}

impl Redirect {
    /// Parses the error of the server at `asked`.
    pub(super) fn parse(error: &RedisError, asked: &str) -> Option<Self> {
        // `None` unless the error is one of the two.
        let (text, _slot) = error.redirect_node()?;
        let (host, port) = text.rsplit_once(':')?;
        let host = if host.is_empty() { asked } else { host };
        let address = Address { host: host.to_owned(), port: port.parse().ok()? };
        if error.kind() == ErrorKind::Server(ServerErrorKind::Ask) {
            Some(Self::Ask(address))
        } else {
            Some(Self::Moved(address))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Layout, LayoutError> {
        let value = redis::parse_redis_value(text.replace(' ', "\r\n").as_bytes()).unwrap();
        Layout::parse(&value, "seed")
    }

    fn check(text: &str, expected: Result<&str, LayoutError>) {
        let shown = parse(text).map(|layout| {
            let servers: Vec<String> = layout.servers().map(Address::to_string).collect();
            format!("{} {:?}", servers.join(" "), layout.ranges)
        });
        assert_eq!(shown.as_deref(), expected.as_deref(), "{text}");
    }

    #[test]
    fn layouts_are_read_as_servers_tell_them() {
        // Out of order, with a replica, an identity and an empty list of further names.
        let three = "*3 \
            *4 :10923 :16383 *4 $1 c :3 $2 id *0 *2 $1 d :4 \
            *3 :0 :5460 *2 $1 a :1 \
            *3 :5461 :10922 *2 $1 b :2 ";
        check(three, Ok("a:1 b:2 c:3 d:4 [(5460, 0), (10922, 1), (16383, 2)]"));
        let layout = parse(three).unwrap();
        let owners = [0, 5460, 5461, 10922, 10923, 16383].map(|slot| layout.owner(slot));
        assert_eq!(owners, [0, 0, 1, 1, 2, 2]);
        // One master with two ranges.
        let two = "*3 *3 :0 :1 *2 $1 a :1 *3 :2 :2 *2 $1 b :2 *3 :3 :16383 *2 $1 a :1 ";
        check(two, Ok("a:1 b:2 [(1, 0), (2, 1), (16383, 0)]"));
        check("*1 *3 :0 :16383 *2 $0  :1 ", Ok("seed:1 [(16383, 0)]"));
        check("*1 *3 :0 :16383 *2 $-1 :1 ", Ok("seed:1 [(16383, 0)]"));
    }

    #[test]
    fn layouts_with_holes_are_of_no_use() {
        check("*0 ", Err(LayoutError::Uncovered(0)));
        check("*1 *3 :0 :100 *2 $1 a :1 ", Err(LayoutError::Uncovered(101)));
        check("*1 *3 :1 :16383 *2 $1 a :1 ", Err(LayoutError::Uncovered(0)));
        check("*1 *3 :0 :16383 *2 $1 ? :1 ", Err(LayoutError::Unknown(0)));
        check("*1 *3 :0 :16383 *2 $1 a :70000 ", Err(LayoutError::Unknown(0)));
        check("*1 *2 :0 :16383 ", Err(LayoutError::Malformed));
        check("*1 *3 :-1 :16383 *2 $1 a :1 ", Err(LayoutError::Malformed));
        check("*1 *3 :0 :65535 *2 $1 a :1 ", Err(LayoutError::Malformed));
        check(":1 ", Err(LayoutError::Malformed));
        check("*1 :1 ", Err(LayoutError::Malformed));
    }

    #[test]
    fn redirections() {
        let check = |line: &str, expected: Option<(&str, &str, u16)>| {
            let value = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
            let found = Redirect::parse(&value.extract_error().unwrap_err(), "asked");
            let expected = expected.map(|(kind, host, port)| {
                let address = Address { host: host.to_owned(), port };
                if kind == "ask" { Redirect::Ask(address) } else { Redirect::Moved(address) }
            });
            assert_eq!(found, expected, "{line}");
        };
        check("MOVED 5868 10.0.0.1:6379", Some(("moved", "10.0.0.1", 6379)));
        check("MOVED 5868 :6379", Some(("moved", "asked", 6379)));
        check("ASK 1 fe80::1:7000", Some(("ask", "fe80::1", 7000)));
        check("MOVED 5868", None);
        check("MOVED 5868 10.0.0.1", None);
        check("MOVED 5868 10.0.0.1:port", None);
        check("CLUSTERDOWN 1 a:1", None);
    }
}
