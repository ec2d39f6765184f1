//! Two questions in Kafka's protocol that a bench asks by itself, since a client's own waits would be measured with them: who
//! is the active controller (DescribeQuorum), and may there be a topic (CreateTopics).
//! Any broker passes them on to the controller. It never retries: whoever asks knows until when.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const CREATE_TOPICS: i16 = 19;
const DESCRIBE_QUORUM: i16 = 55;
const TOPIC_ALREADY_EXISTS: i16 = 36;
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// The id of the active controller, as the controller itself says through the broker at `address`.
pub(crate) fn active_controller(address: SocketAddr, wait: Duration) -> io::Result<usize> {
    let mut question = head(DESCRIBE_QUORUM, 0);
    // The flexible header's tags; one topic with its name, one partition, no tags anywhere.
    question.extend([0, 2]);
    question.push(b"__cluster_metadata".len() as u8 + 1);
    question.extend(b"__cluster_metadata");
    question.extend([2, 0, 0, 0, 0, 0, 0, 0]);
    let answer = ask(address, &question, wait)?;
    let mut answer = Answer(&answer);
    // Tags of the header; the error; one topic and its name; one partition: its number and its error.
    answer.skip(1)?;
    answer.no_error(&[])?;
    answer.skip(1)?;
    let name_length = usize::from(answer.take(1)?[0]).saturating_sub(1);
    answer.skip(name_length + 1 + 4)?;
    answer.no_error(&[])?;
    usize::try_from(answer.i32()?).map_err(|_| ErrorKind::NotFound.into())
}

/// Creates a topic with one partition and one replica; that it exists already is as good.
pub(crate) fn create_topic(address: SocketAddr, name: &str, wait: Duration) -> io::Result<()> {
    let mut question = head(CREATE_TOPICS, 2);
    question.extend(1_i32.to_be_bytes());
    question.extend((name.len() as i16).to_be_bytes());
    question.extend(name.as_bytes());
    question.extend(1_i32.to_be_bytes());
    question.extend(1_i16.to_be_bytes());
    // No assignment, no settings.
    question.extend([0; 8]);
    question.extend((wait.as_millis() as i32).to_be_bytes());
    question.push(0);
    let answer = ask(address, &question, wait)?;
    let mut answer = Answer(&answer);
    // Throttle time, one topic, its name.
    answer.skip(4 + 4 + 2 + name.len())?;
    answer.no_error(&[TOPIC_ALREADY_EXISTS])
}

/// API key and version, correlation id 1, no client id.
fn head(key: i16, version: i16) -> Vec<u8> {
    [&key.to_be_bytes()[..], &version.to_be_bytes(), &[0, 0, 0, 1, 0xff, 0xff]].concat()
}

/// What follows the correlation id of the answer.
fn ask(address: SocketAddr, question: &[u8], wait: Duration) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, wait)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(wait))?;
    let framed = [&(question.len() as u32).to_be_bytes()[..], question].concat();
    stream.write_all(&framed)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if !(4..=ANSWER_BYTES_MAX).contains(&length) {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    Ok(answer.split_off(4))
}

struct Answer<'a>(&'a [u8]);

impl Answer<'_> {
    fn take(&mut self, bytes: usize) -> io::Result<&[u8]> {
        let (taken, left) = self.0.split_at_checked(bytes).ok_or(ErrorKind::UnexpectedEof)?;
        self.0 = left;
        Ok(taken)
    }

    fn skip(&mut self, bytes: usize) -> io::Result<()> {
        self.take(bytes).map(drop)
    }

    fn i32(&mut self) -> io::Result<i32> {
        let bytes = self.take(4)?;
        Ok(i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn no_error(&mut self, as_good: &[i16]) -> io::Result<()> {
        let bytes = self.take(2)?;
        let code = i16::from_be_bytes([bytes[0], bytes[1]]);
        if code == 0 || as_good.contains(&code) {
            Ok(())
        } else {
            Err(io::Error::other(format!("error code {code}")))
        }
    }
}
