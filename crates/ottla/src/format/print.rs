//! Writing a record by a format.
//!
//! A [`Printer`] appends to a buffer that its owner reuses, so a million records cost no allocation each.
//! It never fails: every style has an answer for every value (numbers are cut to their width, as rpk does).

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use client::{ConsumedRecord, Header, TimestampType, Watermarks};
use jiff::Timestamp;
use wire::compression::Compression;

use super::json::print_json;
use super::spec::{Attribute, Format, NumberField, NumberStyle, Piece, TextField, TextStyle, TimeStyle};

/// Writes records by one format and counts them (`%i`).
pub(crate) struct Printer {
    format: Format,
    count: u64,
}

/// A record together with what is known of its partition.
pub(crate) struct Printed<'a> {
    pub(crate) record: &'a ConsumedRecord,
    pub(crate) watermarks: Watermarks,
}

impl Printer {
    pub(crate) fn new(format: Format) -> Self {
        Self { format, count: 0 }
    }

    /// Appends the record to `out`.
    pub(crate) fn print(&mut self, printed: &Printed<'_>, out: &mut Vec<u8>) {
        self.count += 1;
        match &self.format {
            Format::Json => print_json(printed.record, out),
            Format::Pieces(pieces) => {
                pieces.iter().for_each(|piece| print_piece(piece, printed, self.count, out));
            }
        }
    }
}

fn print_piece(piece: &Piece, printed: &Printed<'_>, count: u64, out: &mut Vec<u8>) {
    let record = printed.record;
    let text = |field: &TextField| match field {
        TextField::Topic => record.topic.as_bytes(),
        TextField::Key => record.key.as_deref().unwrap_or_default(),
        TextField::Value => record.value.as_deref().unwrap_or_default(),
    };
    match piece {
        Piece::Literal(literal) => out.extend_from_slice(literal),
        Piece::Text(field, style) => print_text(text(field), *style, out),
        Piece::Length(field, style) => print_number(text(field).len() as i64, *style, out),
        Piece::Number(field, style) => {
            let number = match field {
                NumberField::Partition => record.partition.0.into(),
                NumberField::Offset => record.offset.0,
                NumberField::LeaderEpoch => record.leader_epoch.0.into(),
                NumberField::ProducerId => record.producer_id.0,
                NumberField::ProducerEpoch => record.producer_epoch.0.into(),
                NumberField::LogStart => printed.watermarks.log_start.0,
                NumberField::LastStable => printed.watermarks.last_stable.0,
                NumberField::HighWatermark => printed.watermarks.high_watermark.0,
                NumberField::Count => count as i64,
            };
            print_number(number, *style, out);
        }
        Piece::Timestamp(TimeStyle::Millis(style)) => print_number(record.timestamp.0, *style, out),
        Piece::Timestamp(TimeStyle::Strftime(notation)) => print_time(record.timestamp.0, notation, out),
        Piece::Attribute(attribute, style) => print_attribute(*attribute, *style, record, out),
        Piece::HeaderCount(style) => print_number(record.headers.len() as i64, *style, out),
        Piece::Headers(None) => print_headers_plain(&record.headers, out),
        Piece::Headers(Some(pieces)) => {
            for header in &record.headers {
                pieces.iter().for_each(|piece| print_header_piece(piece, header, out));
            }
        }
    }
}

fn print_headers_plain(headers: &[Header], out: &mut Vec<u8>) {
    for (index, header) in headers.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(header.key.as_bytes());
        out.push(b'=');
        out.extend_from_slice(header.value.as_deref().unwrap_or_default());
    }
}

fn print_header_piece(piece: &Piece, header: &Header, out: &mut Vec<u8>) {
    let text = |field: &TextField| match field {
        TextField::Key => header.key.as_bytes(),
        TextField::Value | TextField::Topic => header.value.as_deref().unwrap_or_default(),
    };
    match piece {
        Piece::Literal(literal) => out.extend_from_slice(literal),
        Piece::Text(field, style) => print_text(text(field), *style, out),
        Piece::Length(field, style) => print_number(text(field).len() as i64, *style, out),
        other => unreachable!("the parser lets only keys and values into a header's format: {other:?}"),
    }
}

fn print_text(text: &[u8], style: TextStyle, out: &mut Vec<u8>) {
    match style {
        TextStyle::Raw => out.extend_from_slice(text),
        TextStyle::Hex => text.iter().for_each(|byte| out.extend(format!("{byte:02x}").bytes())),
        TextStyle::Base64 => out.extend(STANDARD.encode(text).bytes()),
        TextStyle::Base64Unpadded => out.extend(STANDARD_NO_PAD.encode(text).bytes()),
    }
}

fn print_number(number: i64, style: NumberStyle, out: &mut Vec<u8>) {
    match style {
        NumberStyle::Ascii | NumberStyle::Constant(_) => out.extend(number.to_string().bytes()),
        NumberStyle::Bool => out.extend(if number == 0 { "false" } else { "true" }.bytes()),
        NumberStyle::Hex(digits) => {
            let all = format!("{number:016x}");
            out.extend(all[16 - digits..].bytes());
        }
        NumberStyle::Big(bytes) => out.extend_from_slice(&number.to_be_bytes()[8 - bytes..]),
        NumberStyle::Little(bytes) => out.extend_from_slice(&number.to_le_bytes()[..bytes]),
    }
}

fn print_time(millis: i64, notation: &str, out: &mut Vec<u8>) {
    let formatted = Timestamp::from_millisecond(millis)
        .ok()
        .and_then(|timestamp| jiff::fmt::strtime::format(notation, timestamp).ok());
    match formatted {
        Some(formatted) => out.extend(formatted.bytes()),
        // A record may carry any 64-bit number; what is no date is shown as that number.
        None => print_number(millis, NumberStyle::Ascii, out),
    }
}

fn print_attribute(
    attribute: Attribute,
    style: Option<NumberStyle>,
    record: &ConsumedRecord,
    out: &mut Vec<u8>,
) {
    if let (Attribute::Compression, None) = (attribute, style) {
        return out.extend(compression_name(record.compression).bytes());
    }
    let number = match attribute {
        Attribute::Compression => compression_code(record.compression),
        Attribute::TimestampType => match record.timestamp_type {
            TimestampType::CreateTime => 0,
            TimestampType::LogAppendTime => 1,
        },
        Attribute::Transactional => record.is_transactional.into(),
        // Control records end transactions; a consumer never hands them out.
        Attribute::Control => 0,
    };
    print_number(number, style.unwrap_or(NumberStyle::Ascii), out);
}

fn compression_name(compression: Compression) -> &'static str {
    match compression {
        Compression::None => "none",
        Compression::Gzip => "gzip",
        Compression::Snappy => "snappy",
        Compression::Lz4 => "lz4",
        Compression::Zstd => "zstd",
    }
}

fn compression_code(compression: Compression) -> i64 {
    match compression {
        Compression::None => 0,
        Compression::Gzip => 1,
        Compression::Snappy => 2,
        Compression::Lz4 => 3,
        Compression::Zstd => 4,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::{Printed, Printer};
    use crate::format::Format;
    use crate::format::json::tests::sample;

    fn check(format: &str, expected: Expect) {
        let mut printer = Printer::new(Format::parse(format).unwrap());
        let (record, watermarks) = sample();
        let mut out = Vec::new();
        printer.print(&Printed { record: &record, watermarks }, &mut out);
        expected.assert_eq(&out.escape_ascii().to_string());
    }

    #[test]
    fn every_field_has_its_escape() {
        check("%k %v %p %o %d %h\\n", expect![r"k1 hello 3 42 1700000000123 a=1,a=2\n"]);
        check("%t %T %K %V %H %e %x %y %[ %| %] %i", expect!["orders 6 2 5 2 7 9 1 40 43 43 1"]);
        check("%h{<%k:%v{hex}>}", expect!["<a:31><a:32>"]);
        check(
            "%a{compression} %a{compression;number} %a{timestamp-type} %a{transactional-bit;bool}",
            expect!["zstd 4 0 false"],
        );
    }

    #[test]
    fn text_and_numbers_take_the_style_asked_for() {
        check("%k{hex} %v{base64} %v{base64raw}", expect!["6b31 aGVsbG8= aGVsbG8"]);
        check("%V{big32}%V{little16}%V{byte}", expect![r"\x00\x00\x00\x05\x05\x00\x05"]);
        check("%o{hex8} %o{hex64} %o{bool}", expect!["2a 000000000000002a true"]);
    }

    #[test]
    fn a_timestamp_can_be_a_date() {
        check("%d{strftime[%F %T]}", expect!["2023-11-14 22:13:20"]);
        check("%d{strftime}", expect!["2023-11-14T22:13:20.123Z"]);
    }
}
