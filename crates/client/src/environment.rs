//! What the client needs of the world: sockets, the wall clock and dice.
//!
//! Everything in this crate reaches the outside through [`Environment`], so a simulator can stand in for the
//! network. Durations and deadlines are tokio's, which a paused runtime controls; this file is the only place
//! that reads the wall clock.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::str::FromStr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use wire::Millis;

/// A connected byte stream.
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Socket for S {}

/// A boxed future, because [`Environment`] is used as a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Sockets, clock and dice.
pub trait Environment: Send + Sync + 'static {
    /// Opens a stream to `address`. The caller sets the deadline.
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Socket>>>;

    /// The time to stamp records with.
    fn now(&self) -> Millis;

    /// A number that nobody can foresee, for jitter and for choosing among equals.
    fn random(&self) -> u64;
}

/// The real world.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokioEnvironment;

impl Environment for TokioEnvironment {
    fn connect<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Socket>>> {
        Box::pin(async move {
            let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
            // Requests are written whole; waiting for more to send with them only delays them.
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Socket>)
        })
    }

    #[expect(clippy::disallowed_methods, reason = "this is the client's clock")]
    fn now(&self) -> Millis {
        let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Millis(since_1970.map_or(0, |elapsed| elapsed.as_millis() as i64))
    }

    fn random(&self) -> u64 {
        rand::random()
    }
}

/// Where a broker listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// A name or an IP address; IPv6 without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl Address {
    /// The port taken when an address names none: Kafka's.
    pub const PORT_DEFAULT: u16 = 9092;
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for Address {
    type Err = String;

    /// `host`, `host:port`, `[ipv6]:port`, each optionally behind a listener name as in `PLAINTEXT://host:port`.
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
        let (host, port) = match rest.strip_prefix('[') {
            Some(bracketed) => {
                let (host, port) =
                    bracketed.split_once(']').ok_or_else(|| format!("{text:?} has no closing bracket"))?;
                (host, port.strip_prefix(':'))
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        if host.is_empty() {
            return Err(format!("{text:?} names no host"));
        }
        let port = match port {
            None => Self::PORT_DEFAULT,
            Some(port) => port
                .parse()
                .ok()
                .filter(|&port| port != 0)
                .ok_or_else(|| format!("{port:?} in {text:?} is no port between 1 and 65535"))?,
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::Address;

    #[test]
    fn an_address_may_leave_out_the_port_and_name_its_listener() {
        let shown = |text: &str| match text.parse::<Address>() {
            Ok(address) => address.to_string(),
            Err(problem) => problem,
        };
        assert_eq!(shown("localhost"), "localhost:9092");
        assert_eq!(shown(" PLAINTEXT://b1.example:19092"), "b1.example:19092");
        assert_eq!(shown("[::1]:9093"), "[::1]:9093");
        assert_eq!(shown("[::1]"), "[::1]:9092");
        assert_eq!(shown("a:70000"), "\"70000\" in \"a:70000\" is no port between 1 and 65535");
        assert_eq!(shown(":9092"), "\":9092\" names no host");
    }
}
