//! Reading records from a stream by a format.
//!
//! A field ends where the text behind it in the format begins, or after the length that was read before it.
//! A format that ends in a newline and has no lengths is read line by line: a line that does not fit is
//! reported with its number and cannot swallow its neighbours. No field grows past [`RECORD_BYTES_MAX`].

use std::io::{self, BufRead, Read};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bytes::Bytes;
use serde_json::Value;

use super::spec::{Format, NumberField, NumberStyle, Piece, TextField, TextStyle, TimeStyle};

/// The longest field that is read before giving up on finding its end.
const RECORD_BYTES_MAX: usize = 100 * 1024 * 1024;

/// What one record's worth of input said; what it left out is for the command's flags.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct InputRecord {
    pub(crate) topic: Option<String>,
    pub(crate) partition: Option<i32>,
    pub(crate) timestamp: Option<i64>,
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Vec<(String, Option<Bytes>)>,
}

/// Why the input could not be read on.
#[derive(Debug)]
pub(crate) enum ReadError {
    Io(io::Error),
    /// `record` counts from one.
    Mismatch {
        record: u64,
        problem: String,
    },
    /// The format can print but not read.
    Format(String),
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot read the input: {error}"),
            Self::Mismatch { record, problem } => write!(f, "input record {record}: {problem}"),
            Self::Format(problem) => write!(f, "{problem}"),
        }
    }
}

impl std::error::Error for ReadError {}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads records one after another.
pub(crate) struct RecordReader<R> {
    input: R,
    plan: Plan,
    records: u64,
}

enum Plan {
    Json,
    /// Line by line; the pieces are those before the newline.
    Lines(Vec<Piece>),
    /// With nothing but the pieces to tell where a record ends.
    Stream(Vec<Piece>),
    /// Line by line; a line without the delimiter is a value without a key.
    KeyDelimiter(Vec<u8>),
}

impl<R: BufRead> RecordReader<R> {
    /// A reader by format; fields that cannot be set on a record are refused here.
    pub(crate) fn new(format: Format, input: R) -> Result<Self, ReadError> {
        let plan = match format {
            Format::Json => Plan::Json,
            Format::Pieces(pieces) => plan(pieces)?,
        };
        Ok(Self { input, plan, records: 0 })
    }

    /// A reader of lines `key<delimiter>value`.
    pub(crate) fn with_key_delimiter(delimiter: &str, input: R) -> Self {
        Self { input, plan: Plan::KeyDelimiter(delimiter.as_bytes().to_vec()), records: 0 }
    }

    /// The next record, or `None` at the end of the input.
    pub(crate) fn next(&mut self) -> Result<Option<InputRecord>, ReadError> {
        self.records += 1;
        let outcome = match &self.plan {
            Plan::Stream(pieces) => match self.input.fill_buf()?.is_empty() {
                true => return Ok(None),
                false => read_pieces(pieces, &mut self.input),
            },
            line_plan => {
                let Some(line) = read_line(&mut self.input)? else { return Ok(None) };
                match line_plan {
                    Plan::Lines(pieces) => {
                        let mut rest = line.as_slice();
                        read_pieces(pieces, &mut rest).and_then(|record| match rest.is_empty() {
                            true => Ok(record),
                            false => Err(format!("{:?} is left over", String::from_utf8_lossy(rest)).into()),
                        })
                    }
                    Plan::KeyDelimiter(delimiter) => Ok(split_key(&line, delimiter)),
                    _ => read_json(&line),
                }
            }
        };
        outcome.map(Some).map_err(|problem| match problem {
            Problem::Io(error) => ReadError::Io(error),
            Problem::Mismatch(problem) => ReadError::Mismatch { record: self.records, problem },
        })
    }
}

/// What goes wrong inside one record, before its number is known.
enum Problem {
    Io(io::Error),
    Mismatch(String),
}

impl From<String> for Problem {
    fn from(problem: String) -> Self {
        Self::Mismatch(problem)
    }
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn plan(mut pieces: Vec<Piece>) -> Result<Plan, ReadError> {
    check_readable(&pieces)?;
    let sized = pieces.iter().any(|piece| match piece {
        Piece::Length(..) | Piece::HeaderCount(_) => true,
        Piece::Number(_, style) | Piece::Timestamp(TimeStyle::Millis(style)) => {
            !matches!(style, NumberStyle::Ascii | NumberStyle::Hex(_) | NumberStyle::Bool)
        }
        _ => false,
    });
    if sized {
        return Ok(Plan::Stream(pieces));
    }
    let newlines = |piece: &Piece| match piece {
        Piece::Literal(literal) => literal.iter().filter(|&&byte| byte == b'\n').count(),
        _ => 0,
    };
    let newlines_total: usize = pieces.iter().map(newlines).sum();
    match pieces.last_mut() {
        Some(Piece::Literal(literal)) if literal.ends_with(b"\n") && newlines_total == 1 => {
            literal.pop();
            if literal.is_empty() {
                pieces.pop();
            }
            Ok(Plan::Lines(pieces))
        }
        // `%k %v`: nothing says where the value ends, and people mean the end of the line.
        Some(_) if newlines_total == 0 => Ok(Plan::Lines(pieces)),
        _ => Ok(Plan::Stream(pieces)),
    }
}

fn check_readable(pieces: &[Piece]) -> Result<(), ReadError> {
    let refuse = |what: &str| Err(ReadError::Format(format!("{what} can be printed but not read")));
    for (index, piece) in pieces.iter().enumerate() {
        let next = pieces.get(index + 1);
        match piece {
            Piece::Number(NumberField::Partition, _) | Piece::Timestamp(TimeStyle::Millis(_)) => {}
            Piece::Number(..) | Piece::Attribute(..) => return refuse("a field that only the broker sets"),
            Piece::Timestamp(TimeStyle::Strftime(_)) => {
                return refuse("a date (milliseconds, %d, can be read)");
            }
            Piece::Headers(None) => return refuse("%h without braces"),
            Piece::Headers(Some(inner)) => {
                let counted = pieces[..index].iter().any(|piece| matches!(piece, Piece::HeaderCount(_)));
                if !counted {
                    return Err(ReadError::Format(
                        "to read %h{…} the number of headers, %H, must precede it".into(),
                    ));
                }
                check_readable(inner)?;
            }
            Piece::Text(field, _) if matches!(next, Some(Piece::Text(..))) => {
                let sized =
                    pieces[..index].iter().any(|piece| matches!(piece, Piece::Length(of, _) if of == field));
                if !sized {
                    return Err(ReadError::Format(
                        "two fields stand side by side and nothing says where the first ends: put text between \
                         them or lengths (%K, %V) before them"
                            .into(),
                    ));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// A line without its newline. The last one need not have any.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    input.by_ref().take(RECORD_BYTES_MAX as u64).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() == RECORD_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is longer than 100 MiB"));
    }
    Ok(Some(line))
}

fn split_key(line: &[u8], delimiter: &[u8]) -> InputRecord {
    let at = line.windows(delimiter.len()).position(|window| window == delimiter);
    let (key, value) = match at {
        Some(at) => (Some(&line[..at]), &line[at + delimiter.len()..]),
        None => (None, line),
    };
    InputRecord {
        key: key.map(Bytes::copy_from_slice),
        value: Some(Bytes::copy_from_slice(value)),
        ..InputRecord::default()
    }
}

/// Lengths that were read and wait for their fields.
#[derive(Default)]
struct Lengths {
    topic: Option<u64>,
    key: Option<u64>,
    value: Option<u64>,
    headers: u64,
}

impl Lengths {
    fn of(&mut self, field: TextField) -> &mut Option<u64> {
        match field {
            TextField::Topic => &mut self.topic,
            TextField::Key => &mut self.key,
            TextField::Value => &mut self.value,
        }
    }
}

fn read_pieces(pieces: &[Piece], input: &mut impl BufRead) -> Result<InputRecord, Problem> {
    let mut record = InputRecord::default();
    let mut lengths = Lengths::default();
    let mut literal_taken = false;
    for (index, piece) in pieces.iter().enumerate() {
        let delimiter = match pieces.get(index + 1) {
            Some(Piece::Literal(literal)) => Some(literal.as_slice()),
            _ => None,
        };
        match piece {
            Piece::Literal(_) if std::mem::take(&mut literal_taken) => {}
            Piece::Literal(literal) => read_literal(literal, input)?,
            Piece::Length(field, style) => *lengths.of(*field) = Some(read_number(*style, input)?),
            Piece::HeaderCount(style) => lengths.headers = read_number(*style, input)?,
            Piece::Text(field, style) => {
                let length = lengths.of(*field).take();
                literal_taken = length.is_none() && delimiter.is_some();
                let text = read_text(length, delimiter, *style, input)?;
                match field {
                    TextField::Topic => record.topic = Some(into_utf8(text)?),
                    TextField::Key => record.key = Some(text),
                    TextField::Value => record.value = Some(text),
                }
            }
            Piece::Number(_, style) => {
                let partition = read_number(*style, input)?;
                let partition =
                    i32::try_from(partition).map_err(|_| format!("{partition} is no partition"))?;
                record.partition = Some(partition);
            }
            Piece::Timestamp(TimeStyle::Millis(style)) => {
                let millis = read_number(*style, input)?;
                record.timestamp =
                    Some(i64::try_from(millis).map_err(|_| format!("{millis} is no timestamp"))?);
            }
            Piece::Headers(Some(inner)) => {
                for _ in 0..lengths.headers {
                    let header = read_pieces(inner, input)?;
                    let key = into_utf8(header.key.unwrap_or_default())?;
                    record.headers.push((key, header.value));
                }
            }
            Piece::Headers(None) | Piece::Attribute(..) | Piece::Timestamp(TimeStyle::Strftime(_)) => {
                unreachable!("refused when the reader was made: {piece:?}")
            }
        }
    }
    Ok(record)
}

fn into_utf8(text: Bytes) -> Result<String, Problem> {
    String::from_utf8(text.into()).map_err(|_| "a topic or header key is not UTF-8".to_owned().into())
}

fn read_literal(literal: &[u8], input: &mut impl BufRead) -> Result<(), Problem> {
    let mut found = Vec::with_capacity(literal.len());
    input.take(literal.len() as u64).read_to_end(&mut found)?;
    if found == literal || (found.is_empty() && literal == b"\n") {
        return Ok(());
    }
    let (literal, found) = (String::from_utf8_lossy(literal), String::from_utf8_lossy(&found));
    Err(format!("the format has {literal:?} where the input has {found:?}").into())
}

fn read_text(
    length: Option<u64>,
    delimiter: Option<&[u8]>,
    style: TextStyle,
    input: &mut impl BufRead,
) -> Result<Bytes, Problem> {
    let mut text = Vec::new();
    match (length, delimiter) {
        (Some(length), _) => {
            // `take` bounds what is read and `read_to_end` grows with what arrives: a lying length costs nothing.
            let length_max = length.min(RECORD_BYTES_MAX as u64);
            input.take(length_max).read_to_end(&mut text)?;
            if text.len() as u64 != length {
                return Err(
                    format!("a field of {length} bytes was announced, {} are there", text.len()).into()
                );
            }
        }
        (None, Some(delimiter)) => read_until_text(delimiter, input, &mut text)?,
        (None, None) => {
            input.take(RECORD_BYTES_MAX as u64).read_to_end(&mut text)?;
        }
    }
    decode_text(text, style)
}

/// Reads up to the delimiter and takes it too.
fn read_until_text(delimiter: &[u8], input: &mut impl BufRead, text: &mut Vec<u8>) -> Result<(), Problem> {
    let Some(&last) = delimiter.last() else { return Ok(()) };
    loop {
        let room = (RECORD_BYTES_MAX - text.len().min(RECORD_BYTES_MAX)) as u64;
        if room == 0 {
            return Err("a field is longer than 100 MiB".to_owned().into());
        }
        if input.by_ref().take(room).read_until(last, text)? == 0 {
            // The newline behind the very last record is often missing.
            if delimiter == b"\n" {
                return Ok(());
            }
            return Err(format!("{:?} is missing", String::from_utf8_lossy(delimiter)).into());
        }
        if text.ends_with(delimiter) {
            text.truncate(text.len() - delimiter.len());
            return Ok(());
        }
    }
}

fn decode_text(text: Vec<u8>, style: TextStyle) -> Result<Bytes, Problem> {
    let decoded = match style {
        TextStyle::Raw => Some(text),
        TextStyle::Hex => decode_hex(&text),
        TextStyle::Base64 => STANDARD.decode(&text).ok(),
        TextStyle::Base64Unpadded => STANDARD_NO_PAD.decode(&text).ok(),
    };
    decoded.map(Bytes::from).ok_or_else(|| format!("a field is not {style:?}").to_lowercase().into())
}

fn decode_hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

fn read_number(style: NumberStyle, input: &mut impl BufRead) -> Result<u64, Problem> {
    match style {
        NumberStyle::Constant(number) => Ok(number),
        NumberStyle::Big(length) => {
            Ok(fixed(length, input)?.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
        }
        NumberStyle::Little(length) => {
            Ok(fixed(length, input)?.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
        }
        NumberStyle::Hex(digits) => {
            let digits = fixed(digits, input)?;
            let digits = String::from_utf8_lossy(&digits);
            u64::from_str_radix(&digits, 16).map_err(|_| format!("{digits:?} is not hexadecimal").into())
        }
        NumberStyle::Bool => match input.fill_buf()?.first() {
            Some(b't') => fixed(4, input).and_then(|word| expect_word(&word, b"true", 1)),
            _ => fixed(5, input).and_then(|word| expect_word(&word, b"false", 0)),
        },
        NumberStyle::Ascii => {
            let mut number: Option<u64> = None;
            while let Some(&byte) = input.fill_buf()?.first() {
                if !byte.is_ascii_digit() {
                    break;
                }
                input.consume(1);
                let digit = u64::from(byte - b'0');
                let larger = number.unwrap_or(0).checked_mul(10).and_then(|number| number.checked_add(digit));
                number = Some(larger.ok_or_else(|| "a number is too large".to_owned())?);
            }
            number.ok_or_else(|| "a number is missing".to_owned().into())
        }
    }
}

fn fixed(length: usize, input: &mut impl BufRead) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::with_capacity(length);
    input.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() == length { Ok(bytes) } else { Err("the input ends inside a number".to_owned().into()) }
}

fn expect_word(found: &[u8], expected: &[u8], meaning: u64) -> Result<u64, Problem> {
    if found == expected { Ok(meaning) } else { Err("neither true nor false".to_owned().into()) }
}

/// Reads what `consume --format json` prints.
fn read_json(line: &[u8]) -> Result<InputRecord, Problem> {
    let object: Value = serde_json::from_slice(line).map_err(|error| format!("not JSON: {error}"))?;
    if !object.is_object() {
        return Err("a record is a JSON object".to_owned().into());
    }
    let mut record = InputRecord {
        key: json_bytes(&object, "key")?,
        value: json_bytes(&object, "value")?,
        timestamp: object.get("timestamp").and_then(Value::as_i64),
        ..InputRecord::default()
    };
    for header in object.get("headers").and_then(Value::as_array).into_iter().flatten() {
        let key =
            header.get("key").and_then(Value::as_str).ok_or_else(|| "a header has no key".to_owned())?;
        record.headers.push((key.to_owned(), json_bytes(header, "value")?));
    }
    Ok(record)
}

fn json_bytes(object: &Value, name: &str) -> Result<Option<Bytes>, Problem> {
    if let Some(encoded) = object.get(format!("{name}_base64")) {
        let bytes = encoded.as_str().and_then(|encoded| STANDARD.decode(encoded).ok());
        return bytes
            .map(|bytes| Some(bytes.into()))
            .ok_or_else(|| format!("{name}_base64 is not base64").into());
    }
    Ok(match object.get(name) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(Bytes::copy_from_slice(text.as_bytes())),
        // A document is sent as it would be written.
        Some(document) => Some(document.to_string().into()),
    })
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::RecordReader;
    use crate::format::Format;

    fn check(format: &str, input: &[u8], expected: Expect) {
        let reader = Format::parse(format)
            .map_err(|error| error.to_string())
            .and_then(|format| RecordReader::new(format, input).map_err(|error| error.to_string()));
        expected.assert_eq(&match reader {
            Ok(reader) => show(reader),
            Err(error) => format!("{error}\n"),
        });
    }

    fn show(mut reader: RecordReader<&[u8]>) -> String {
        let mut shown = String::new();
        loop {
            match reader.next() {
                Ok(None) => return shown,
                Ok(Some(record)) => {
                    let text = |bytes: &Option<bytes::Bytes>| match bytes {
                        Some(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
                        None => "null".to_owned(),
                    };
                    shown += &format!("{} {}", text(&record.key), text(&record.value));
                    record.topic.iter().for_each(|topic| shown += &format!(" topic {topic}"));
                    record.partition.iter().for_each(|partition| shown += &format!(" partition {partition}"));
                    record.timestamp.iter().for_each(|timestamp| shown += &format!(" at {timestamp}"));
                    for (key, value) in &record.headers {
                        shown += &format!(" {key}={}", text(value));
                    }
                    shown.push('\n');
                }
                Err(error) => return format!("{shown}{error}\n"),
            }
        }
    }

    #[test]
    fn lines_are_values_and_the_last_needs_no_newline() {
        check(
            "%v\\n",
            b"one\n\nthree",
            expect![[r#"
            null "one"
            null ""
            null "three"
        "#]],
        );
    }

    #[test]
    fn a_line_that_does_not_fit_is_named_and_cannot_swallow_the_next() {
        check(
            "%k %v\\n",
            b"a 1\nlonely\nb 2\n",
            expect![[r#"
            "a" "1"
            input record 2: " " is missing
        "#]],
        );
        check(
            "%k %v",
            b"a 1 2\nb 3\n",
            expect![[r#"
            "a" "1 2"
            "b" "3"
        "#]],
        );
    }

    #[test]
    fn lengths_make_any_bytes_readable() {
        check(
            "%K{big16}%V{big32}%k%v",
            b"\0\x01\0\0\0\x03k\n\n\n\0\0\0\0\0\x01v",
            expect![[r#"
            "k" "\n\n\n"
            "" "v"
        "#]],
        );
        check(
            "%T{3}%V%t %v",
            b"2foo ab",
            expect![[r#"
            null "ab" topic foo
        "#]],
        );
        check(
            "%V{big32}%v",
            b"\xff\xff\xff\xffab",
            expect![[r#"
            input record 1: a field of 4294967295 bytes was announced, 2 are there
        "#]],
        );
    }

    #[test]
    fn headers_partitions_and_times_are_read_back() {
        check(
            "%p %d %H %h{%k=%v }%k:%v\\n",
            b"3 1700000000000 2 a=1 b=2 k:v\n",
            expect![[r#"
            "k" "v" partition 3 at 1700000000000 a="1" b="2"
        "#]],
        );
        check(
            "%k{hex} %v{base64}\\n",
            b"6b31 aGVsbG8=\n6b3 aGVsbG8=\n",
            expect![[r#"
            "k1" "hello"
            input record 2: a field is not hex
        "#]],
        );
    }

    #[test]
    fn json_lines_are_what_consume_prints() {
        check(
            "json",
            br#"{"key":null,"value_base64":"/wA=","timestamp":5,"headers":[{"key":"h","value":null}]}
{"value":{"a":1}}
[]"#,
            expect![[r#"
                null "�\0" at 5 h=null
                null "{\"a\":1}"
                input record 3: a record is a JSON object
            "#]],
        );
    }

    #[test]
    fn a_format_that_cannot_be_read_is_refused_before_the_input_is_touched() {
        check(
            "%k%v\\n",
            b"",
            expect![[r#"
            two fields stand side by side and nothing says where the first ends: put text between them or lengths (%K, %V) before them
        "#]],
        );
        check(
            "%o %v\\n",
            b"",
            expect![[r#"
            a field that only the broker sets can be printed but not read
        "#]],
        );
        check(
            "%h{%k=%v}%v\\n",
            b"",
            expect![[r#"
            to read %h{…} the number of headers, %H, must precede it
        "#]],
        );
    }

    #[test]
    fn a_key_delimiter_splits_at_its_first_place() {
        let reader = RecordReader::with_key_delimiter(":", b"a:b:c\nplain\n".as_slice());
        expect![[r#"
            "a" "b:c"
            null "plain"
        "#]]
        .assert_eq(&show(reader));
    }
}
