//! Bytes to and from a broker, without a client between.

use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use wire::{ApiKey, RequestHeader};

use super::TestBroker;

/// A reply that takes longer than this counts as a hang.
const REPLY_MAX: Duration = Duration::from_secs(10);

/// The header of a request that is built by hand.
pub fn header(api: ApiKey, version: i16) -> RequestHeader {
    RequestHeader {
        api_key: api.code(),
        api_version: version,
        correlation_id: 7,
        client_id: Some("bad".into()),
    }
}

/// A bare connection.
pub fn connect(broker: &TestBroker) -> TcpStream {
    let socket = TcpStream::connect(broker.addr()).unwrap();
    socket.set_read_timeout(Some(REPLY_MAX)).unwrap();
    socket
}

/// The next frame without its length; `None` when the broker closed the connection.
pub fn read_frame(socket: &mut TcpStream) -> Option<Bytes> {
    let mut length = [0; 4];
    match socket.read_exact(&mut length) {
        Ok(()) => {}
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
        {
            panic!("no reply within {REPLY_MAX:?}")
        }
        Err(_closed) => return None,
    }
    let mut frame = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
    socket.read_exact(&mut frame).ok()?;
    Some(frame.into())
}

/// The metrics page that is served at an address.
pub fn get_metrics(address: std::net::SocketAddr) -> String {
    let mut socket = TcpStream::connect(address).expect("the endpoint listens");
    let request = b"GET /metrics HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
    std::io::Write::write_all(&mut socket, request).expect("it reads");
    let mut page = String::new();
    std::io::Read::read_to_string(&mut socket, &mut page).expect("it answers");
    page
}
