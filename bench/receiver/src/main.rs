//! The machine's own price for a produce stream: `receiver record` captures what a client sends to a broker, `receiver
//! replay` sends the same bytes again, `receiver receive` takes them the cheapest way there is (recv, CRC-32C, write).
//! What a broker costs beyond `receive` is what its protocol, its log and its replies cost.
//! Both listeners print `listening HOST:PORT` first, their figures as a line of `name=value` words last.
//! It never parses what it receives and never answers.

mod capture;
mod receive;

use std::process::ExitCode;

const USAGE: &str = "\
usage: receiver record  LISTEN UPSTREAM CAPTURE BYTES     relay clients of LISTEN to the broker UPSTREAM, keep their first BYTES
       receiver replay  TARGET CAPTURE BYTES              send the capture, over and over, until BYTES are sent
       receiver receive LISTEN FILE pagecache|flush       take everything until every connection has closed, print its cost
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["record", listen, upstream, file, bytes] => {
            number(bytes).and_then(|bytes| capture::record(listen, upstream, file, bytes))
        }
        ["replay", target, file, bytes] => {
            number(bytes).and_then(|bytes| capture::replay(target, file, bytes))
        }
        ["receive", listen, file, "pagecache"] => {
            receive::receive(listen, file, receive::Durability::PageCache)
        }
        ["receive", listen, file, "flush"] => receive::receive(listen, file, receive::Durability::Flush),
        _ => Err(USAGE.into()),
    };
    match outcome {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn number(word: &str) -> Result<u64, Box<dyn std::error::Error>> {
    word.parse().map_err(|_| format!("{word:?} is not a number of bytes").into())
}
