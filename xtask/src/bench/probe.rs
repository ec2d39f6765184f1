//! Whether a broker answers: one ApiVersions request over a fresh connection, again and again until it does.
//! A connection that is accepted but not answered does not count as ready. It never sends anything else.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

const RETRY_PAUSE: Duration = Duration::from_millis(1);
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);
/// Length 10; ApiVersions (18) version 0; correlation id 1; no client id.
const REQUEST: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff];
/// Length, correlation id, error code.
const ANSWER_HEAD_BYTES: usize = 4 + 4 + 2;

/// Returns how long it took from `begin` until the broker answered.
pub(crate) fn ready(address: SocketAddr, begin: Instant, wait_max: Duration) -> Result<Duration, String> {
    loop {
        match ask(address) {
            Ok(()) => return Ok(begin.elapsed()),
            Err(error) if begin.elapsed() > wait_max => {
                return Err(format!("{address} not ready after {wait_max:?}: {error}"));
            }
            Err(_) => thread::sleep(RETRY_PAUSE),
        }
    }
}

fn ask(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER_WAIT_MAX))?;
    stream.write_all(&REQUEST)?;
    let mut head = [0; ANSWER_HEAD_BYTES];
    stream.read_exact(&mut head)?;
    // Correlation id 1, no error.
    if head[4..] == [0, 0, 0, 1, 0, 0] { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
}
