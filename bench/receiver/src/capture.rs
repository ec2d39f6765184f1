//! A produce stream, kept and sent again: chunks of (connection, length, bytes), big-endian, in the order in which they came.
//! `record` stands between a client and a broker on this host; metadata answers name the broker's own port, which it
//! replaces by its own, so that the client's produce requests take the detour too. It changes nothing else.
//! It ends when its standard input does, and never keeps more than it was told to: past that it only relays.

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const BUFFER_BYTES: usize = 256 * 1024;
const CONNECTIONS_MAX: u32 = 64;
const IDLE_PAUSE: Duration = Duration::from_millis(20);

struct Capture {
    file: BufWriter<File>,
    room: u64,
}

impl Capture {
    fn keep(&mut self, connection: u32, bytes: &[u8]) -> std::io::Result<()> {
        let kept = &bytes[..bytes.len().min(usize::try_from(self.room).unwrap_or(usize::MAX))];
        if kept.is_empty() {
            return Ok(());
        }
        self.room -= kept.len() as u64;
        self.file.write_all(&connection.to_be_bytes())?;
        self.file.write_all(&(kept.len() as u32).to_be_bytes())?;
        self.file.write_all(kept)
    }
}

pub fn record(listen: &str, upstream: &str, file: &str, bytes_max: u64) -> Result<String, Box<dyn Error>> {
    let listener = TcpListener::bind(listen)?;
    let (own, broker): (SocketAddr, SocketAddr) = (listener.local_addr()?, upstream.parse()?);
    println!("listening {own}");
    listener.set_nonblocking(true)?;
    let capture = Mutex::new(Capture { file: BufWriter::new(File::create(file)?), room: bytes_max });
    let done = AtomicBool::new(false);
    let mut connections = 0;

    thread::scope(|scope| -> Result<(), Box<dyn Error>> {
        scope.spawn(|| {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            done.store(true, Ordering::SeqCst);
        });
        while !done.load(Ordering::SeqCst) {
            let client = match listener.accept() {
                Ok((client, _)) => client,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    thread::sleep(IDLE_PAUSE);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if connections == CONNECTIONS_MAX {
                return Err("too many connections".into());
            }
            client.set_nonblocking(false)?;
            client.set_nodelay(true)?;
            let server = TcpStream::connect(broker)?;
            server.set_nodelay(true)?;
            let (connection, capture) = (connections, &capture);
            connections += 1;
            let (client_back, server_back) = (client.try_clone()?, server.try_clone()?);
            scope.spawn(move || {
                relay(client, server, |bytes| {
                    if let Ok(mut capture) = capture.lock()
                        && let Err(error) = capture.keep(connection, bytes)
                    {
                        eprintln!("capture: {error}");
                    }
                });
            });
            scope.spawn(move || relay(server_back, client_back, |bytes| redirect(bytes, broker, own)));
        }
        Ok(())
    })?;

    let mut capture = capture.into_inner().map_err(|_| "a relay panicked")?;
    capture.file.flush()?;
    Ok(format!("connections={connections} bytes={}", bytes_max - capture.room))
}

fn relay(mut from: TcpStream, mut to: TcpStream, mut look: impl FnMut(&mut [u8])) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        look(&mut buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // Both ends learn that it is over; either may already have gone.
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// Puts our port where an answer names the broker's address: the host as text, followed by the port as four bytes.
fn redirect(bytes: &mut [u8], broker: SocketAddr, own: SocketAddr) {
    let mut named = broker.ip().to_string().into_bytes();
    let host_bytes = named.len();
    named.extend(u32::from(broker.port()).to_be_bytes());
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(named.len()).position(|window| window == named) {
        at += found + host_bytes;
        bytes[at..at + 4].copy_from_slice(&u32::from(own.port()).to_be_bytes());
    }
}

pub fn replay(target: &str, file: &str, bytes: u64) -> Result<String, Box<dyn Error>> {
    let capture = std::fs::read(file)?;
    let chunks = chunks(&capture).ok_or("the capture is torn")?;
    if chunks.is_empty() {
        return Err("the capture is empty".into());
    }
    let connections = chunks.iter().map(|(connection, _)| connection + 1).max().unwrap_or(0);
    let mut streams = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(target)?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let mut sent = 0;
    for (connection, chunk) in chunks.iter().cycle() {
        if sent >= bytes {
            break;
        }
        streams[*connection as usize].write_all(chunk)?;
        sent += chunk.len() as u64;
    }
    Ok(format!("bytes={sent}"))
}

fn chunks(mut capture: &[u8]) -> Option<Vec<(u32, &[u8])>> {
    let mut chunks = Vec::new();
    while !capture.is_empty() {
        let (connection, rest) = capture.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let connection = u32::from_be_bytes(*connection);
        let (chunk, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        if connection >= CONNECTIONS_MAX {
            return None;
        }
        chunks.push((connection, chunk));
        capture = rest;
    }
    Some(chunks)
}
