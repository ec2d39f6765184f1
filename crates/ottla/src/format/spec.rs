//! The grammar of a record format: text with `%` escapes, braces with modifiers behind them.
//!
//! A parsed [`Format`] is a list of pieces in order; parsing is total, so whatever a user types is either a
//! format or a [`FormatError`] that points at the character. This file knows nothing of records.

use std::fmt;

/// A parsed record format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Format {
    /// One JSON object a line.
    Json,
    /// Pieces to write or read one after another.
    Pieces(Vec<Piece>),
}

/// One step of a format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    Literal(Vec<u8>),
    Text(TextField, TextStyle),
    Length(TextField, NumberStyle),
    Number(NumberField, NumberStyle),
    Timestamp(TimeStyle),
    Attribute(Attribute, Option<NumberStyle>),
    HeaderCount(NumberStyle),
    /// `%h{…}`: the pieces are repeated for each header, with `%k` and `%v` meaning the header's.
    Headers(Option<Vec<Piece>>),
}

/// A field that is a string of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextField {
    Topic,
    Key,
    Value,
}

/// A field that is a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NumberField {
    Partition,
    Offset,
    LeaderEpoch,
    ProducerId,
    ProducerEpoch,
    LogStart,
    LastStable,
    HighWatermark,
    /// How many records this run has formatted, this one included.
    Count,
}

/// A bit or code of the batch that a record came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attribute {
    Compression,
    TimestampType,
    Transactional,
    Control,
}

/// How bytes look as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextStyle {
    Raw,
    Hex,
    Base64,
    Base64Unpadded,
}

/// How a number looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NumberStyle {
    Ascii,
    /// That many hexadecimal digits.
    Hex(usize),
    /// That many bytes, most significant first.
    Big(usize),
    /// That many bytes, least significant first.
    Little(usize),
    Bool,
    /// Reading only: the number is this one and takes nothing from the input.
    Constant(u64),
}

/// How a timestamp looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TimeStyle {
    /// Milliseconds since 1970.
    Millis(NumberStyle),
    /// UTC, in strftime's notation.
    Strftime(String),
}

/// A format that cannot be used, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FormatError {
    format: String,
    at: usize,
    problem: String,
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "format {:?}, character {}: {}", self.format, self.at + 1, self.problem)
    }
}

impl std::error::Error for FormatError {}

/// Formats nest through `%h{…}` only, and a header has no headers.
#[derive(Clone, Copy, PartialEq)]
enum Scope {
    Record,
    Header,
}

impl Format {
    /// Parses a format as it stands on the command line.
    pub(crate) fn parse(format: &str) -> Result<Self, FormatError> {
        if format == "json" {
            return Ok(Self::Json);
        }
        let mut parser = Parser { format, at: 0 };
        let pieces = parser.pieces(Scope::Record)?;
        if pieces.iter().all(|piece| matches!(piece, Piece::Literal(_))) {
            return Err(parser.refuse(0, "nothing of the record is in it; try '%k %v\\n', or json"));
        }
        Ok(Self::Pieces(pieces))
    }
}

struct Parser<'a> {
    format: &'a str,
    /// A byte index that is always on a character boundary.
    at: usize,
}

impl Parser<'_> {
    fn refuse(&self, at: usize, problem: impl Into<String>) -> FormatError {
        let at = self.format[..at].chars().count();
        FormatError { format: self.format.to_owned(), at, problem: problem.into() }
    }

    fn next(&mut self) -> Option<char> {
        let next = self.format[self.at..].chars().next()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn pieces(&mut self, scope: Scope) -> Result<Vec<Piece>, FormatError> {
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        loop {
            let start = self.at;
            match self.next() {
                None if scope == Scope::Header => {
                    return Err(self.refuse(start, "%h{ has no closing brace"));
                }
                None => break,
                Some('}') if scope == Scope::Header => break,
                Some('\\') => literal.push(self.backslash(start)?),
                Some('%') => match self.percent(start, scope)? {
                    Piece::Literal(bytes) => literal.extend(bytes),
                    piece => {
                        if !literal.is_empty() {
                            pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                        }
                        pieces.push(piece);
                    }
                },
                Some(other) => literal.extend(other.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(pieces)
    }

    fn backslash(&mut self, start: usize) -> Result<u8, FormatError> {
        match self.next() {
            Some('n') => Ok(b'\n'),
            Some('t') => Ok(b'\t'),
            Some('r') => Ok(b'\r'),
            Some('\\') => Ok(b'\\'),
            Some('x') => {
                let digits = self.format.get(self.at..self.at + 2);
                let byte = digits
                    .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
                    .and_then(|digits| u8::from_str_radix(digits, 16).ok())
                    .ok_or_else(|| self.refuse(start, "\\x needs two hexadecimal digits, as in \\x00"))?;
                self.at += 2;
                Ok(byte)
            }
            _ => Err(self.refuse(start, "after a backslash come n, t, r, \\ or xNN")),
        }
    }

    fn percent(&mut self, start: usize, scope: Scope) -> Result<Piece, FormatError> {
        let Some(escape) = self.next() else {
            return Err(self.refuse(start, "a % at the end means nothing; a percent sign is %%"));
        };
        if scope == Scope::Header && !matches!(escape, 'k' | 'v' | 'K' | 'V' | '%' | '{' | '}') {
            return Err(self.refuse(start, format!("%{escape} is not known inside %h{{…}}; %k and %v are")));
        }
        let piece = match escape {
            '%' | '{' | '}' => Piece::Literal(vec![escape as u8]),
            't' => Piece::Text(TextField::Topic, self.text_style()?),
            'k' => Piece::Text(TextField::Key, self.text_style()?),
            'v' => Piece::Text(TextField::Value, self.text_style()?),
            'T' => Piece::Length(TextField::Topic, self.number_style()?),
            'K' => Piece::Length(TextField::Key, self.number_style()?),
            'V' => Piece::Length(TextField::Value, self.number_style()?),
            'p' => Piece::Number(NumberField::Partition, self.number_style()?),
            'o' => Piece::Number(NumberField::Offset, self.number_style()?),
            'e' => Piece::Number(NumberField::LeaderEpoch, self.number_style()?),
            'x' => Piece::Number(NumberField::ProducerId, self.number_style()?),
            'y' => Piece::Number(NumberField::ProducerEpoch, self.number_style()?),
            '[' => Piece::Number(NumberField::LogStart, self.number_style()?),
            '|' => Piece::Number(NumberField::LastStable, self.number_style()?),
            ']' => Piece::Number(NumberField::HighWatermark, self.number_style()?),
            'i' => Piece::Number(NumberField::Count, self.number_style()?),
            'H' => Piece::HeaderCount(self.number_style()?),
            'd' => Piece::Timestamp(self.time_style()?),
            'a' => self.attribute(start)?,
            'h' if self.format[self.at..].starts_with('{') => {
                self.at += 1;
                Piece::Headers(Some(self.pieces(Scope::Header)?))
            }
            'h' => Piece::Headers(None),
            other => return Err(self.refuse(start, format!("%{other} is not known"))),
        };
        Ok(piece)
    }

    /// The modifier in braces behind an escape, if there is one.
    fn modifier(&mut self) -> Result<Option<&str>, FormatError> {
        let start = self.at;
        if !self.format[start..].starts_with('{') {
            return Ok(None);
        }
        let Some(length) = self.format[start..].find('}') else {
            return Err(self.refuse(start, "this brace is never closed; a brace of its own is %{"));
        };
        self.at = start + length + 1;
        Ok(Some(&self.format[start + 1..start + length]))
    }

    fn text_style(&mut self) -> Result<TextStyle, FormatError> {
        let start = self.at;
        match self.modifier()? {
            None => Ok(TextStyle::Raw),
            Some("hex") => Ok(TextStyle::Hex),
            Some("base64") => Ok(TextStyle::Base64),
            Some("base64raw") => Ok(TextStyle::Base64Unpadded),
            Some(other) => {
                let problem = format!("{other:?} is no way to write text; hex, base64 and base64raw are");
                Err(self.refuse(start, problem))
            }
        }
    }

    fn number_style(&mut self) -> Result<NumberStyle, FormatError> {
        let start = self.at;
        match self.modifier()? {
            None => Ok(NumberStyle::Ascii),
            Some(name) => {
                let name = name.to_owned();
                self.number_style_named(start, &name)
            }
        }
    }

    fn number_style_named(&self, start: usize, name: &str) -> Result<NumberStyle, FormatError> {
        Ok(match name {
            "ascii" => NumberStyle::Ascii,
            "hex64" => NumberStyle::Hex(16),
            "hex32" => NumberStyle::Hex(8),
            "hex16" => NumberStyle::Hex(4),
            "hex8" => NumberStyle::Hex(2),
            "hex4" => NumberStyle::Hex(1),
            "big64" => NumberStyle::Big(8),
            "big32" => NumberStyle::Big(4),
            "big16" => NumberStyle::Big(2),
            "little64" => NumberStyle::Little(8),
            "little32" => NumberStyle::Little(4),
            "little16" => NumberStyle::Little(2),
            "big8" | "little8" | "byte" => NumberStyle::Big(1),
            "bool" => NumberStyle::Bool,
            digits => match digits.parse() {
                Ok(constant) => NumberStyle::Constant(constant),
                Err(_) => {
                    let problem = format!(
                        "{name:?} is no way to write a number; ascii, bool, byte, hex4 to hex64, \
                         big8 to big64 and little8 to little64 are"
                    );
                    return Err(self.refuse(start, problem));
                }
            },
        })
    }

    fn time_style(&mut self) -> Result<TimeStyle, FormatError> {
        let start = self.at;
        let rest = &self.format[start..];
        if rest.starts_with("{go") {
            return Err(self.refuse(start, "Go's time notation is not supported; try {strftime[%F %T]}"));
        }
        let Some(rest) = rest.strip_prefix("{strftime") else {
            return Ok(TimeStyle::Millis(self.number_style()?));
        };
        if rest.starts_with('}') {
            self.at = start + "{strftime}".len();
            return Ok(TimeStyle::Strftime("%Y-%m-%dT%H:%M:%S%.3fZ".to_owned()));
        }
        // Any number of [, { or # may wrap the notation, so that it can hold such characters itself.
        let open = rest.chars().next().filter(|open| matches!(open, '[' | '{' | '#'));
        let Some(open) = open else {
            return Err(self.refuse(start, "write {strftime[%F %T]}"));
        };
        let width = rest.chars().take_while(|&next| next == open).count();
        let close = match open {
            '[' => "]",
            '{' => "}",
            _ => "#",
        }
        .repeat(width);
        let Some(length) = rest[width..].find(&format!("{close}}}")) else {
            return Err(self.refuse(start, format!("{close}}} must close the notation")));
        };
        let notation = rest[width..width + length].to_owned();
        self.at = start + "{strftime".len() + 2 * width + length + 1;
        if let Err(error) = jiff::fmt::strtime::format(&notation, jiff::Timestamp::UNIX_EPOCH) {
            return Err(self.refuse(start, format!("{error}")));
        }
        Ok(TimeStyle::Strftime(notation))
    }

    fn attribute(&mut self, start: usize) -> Result<Piece, FormatError> {
        let known = "%a needs {compression}, {timestamp-type}, {transactional-bit} or {control-bit}";
        let modifier = self.modifier()?.map(str::to_owned).unwrap_or_default();
        let (name, number) = match modifier.split_once(';') {
            Some((name, "number")) => (name, Some(NumberStyle::Ascii)),
            Some((name, style)) => (name, Some(self.number_style_named(start, style)?)),
            None => (modifier.as_str(), None),
        };
        let attribute = match name {
            "compression" => Attribute::Compression,
            "timestamp-type" => Attribute::TimestampType,
            "transactional-bit" => Attribute::Transactional,
            "control-bit" => Attribute::Control,
            _ => return Err(self.refuse(start, known)),
        };
        Ok(Piece::Attribute(attribute, number))
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::Format;

    fn check(format: &str, expected: Expect) {
        let outcome = match Format::parse(format) {
            Ok(Format::Json) => "json\n".to_owned(),
            Ok(Format::Pieces(pieces)) => pieces.iter().map(|piece| format!("{piece:?}\n")).collect(),
            Err(error) => format!("{error}\n"),
        };
        expected.assert_eq(&outcome);
    }

    #[test]
    fn text_between_escapes_stays_as_it_is() {
        check(
            "%k -> %v{hex}\\n",
            expect![[r#"
                Text(Key, Raw)
                Literal([32, 45, 62, 32])
                Text(Value, Hex)
                Literal([10])
            "#]],
        );
        check(
            "100%% \\x00%{%}%v",
            expect![[r#"
                Literal([49, 48, 48, 37, 32, 0, 123, 125])
                Text(Value, Raw)
            "#]],
        );
        check(
            "json",
            expect![[r#"
            json
        "#]],
        );
    }

    #[test]
    fn headers_carry_a_format_of_their_own() {
        check(
            "%h{%k=%v{base64} }%H",
            expect![[r#"
                Headers(Some([Text(Key, Raw), Literal([61]), Text(Value, Base64), Literal([32])]))
                HeaderCount(Ascii)
            "#]],
        );
        check(
            "%h{%o}",
            expect![[r#"
            format "%h{%o}", character 4: %o is not known inside %h{…}; %k and %v are
        "#]],
        );
        check(
            "%h{%k",
            expect![[r#"
            format "%h{%k", character 6: %h{ has no closing brace
        "#]],
        );
    }

    #[test]
    fn a_time_notation_may_be_wrapped_in_any_brackets() {
        check(
            "%d %d{strftime[%F]} %d{strftime##{%T}##} %d{hex64}",
            expect![[r#"
                Timestamp(Millis(Ascii))
                Literal([32])
                Timestamp(Strftime("%F"))
                Literal([32])
                Timestamp(Strftime("{%T}"))
                Literal([32])
                Timestamp(Millis(Hex(16)))
            "#]],
        );
        check(
            "%d{go[2006]}",
            expect![[r#"
            format "%d{go[2006]}", character 3: Go's time notation is not supported; try {strftime[%F %T]}
        "#]],
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_place() {
        check(
            "%q",
            expect![[r#"
            format "%q", character 1: %q is not known
        "#]],
        );
        check(
            "é%v{rot13}",
            expect![[r#"
            format "é%v{rot13}", character 4: "rot13" is no way to write text; hex, base64 and base64raw are
        "#]],
        );
        check(
            "%v\\xZZ",
            expect![[r#"
            format "%v\\xZZ", character 3: \x needs two hexadecimal digits, as in \x00
        "#]],
        );
        check(
            "%v\\xé",
            expect![[r#"
            format "%v\\xé", character 3: \x needs two hexadecimal digits, as in \x00
        "#]],
        );
        check(
            "hello\\n",
            expect![[r#"
            format "hello\\n", character 1: nothing of the record is in it; try '%k %v\n', or json
        "#]],
        );
        check(
            "%a{size}",
            expect![[r#"
            format "%a{size}", character 1: %a needs {compression}, {timestamp-type}, {transactional-bit} or {control-bit}
        "#]],
        );
    }
}
