//! A JSON object straight into columns, without a tree between.
//!
//! Strict: a field is of its kind or the record is refused, never converted at a loss. A field that comes twice is refused, one that is
//! not declared is left out, one that does not come is null unless it is required; all of this also within objects, lists and maps.

use std::collections::HashSet;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize as _, Deserializer as _};
use serde_json::value::RawValue;

use crate::column::{Column, ListColumn, MapColumn};
use crate::columns::Unconvertible;
use crate::decimal::{self, NoDecimal};
use crate::kind::{JsonField, Kind};

/// One row to be filled, or an object within one.
pub(crate) struct Row<'f, 'c> {
    pub(crate) fields: &'f [JsonField],
    pub(crate) values: &'c mut [Column],
    /// In which row each field was last seen.
    pub(crate) seen: &'c mut [u64],
    /// The number of this one.
    pub(crate) number: u64,
}

impl Row<'_, '_> {
    /// Fills it from an object.
    pub(crate) fn parse(self, value: &[u8]) -> Result<(), Unconvertible> {
        let mut path = Path(Vec::new());
        let mut parser = serde_json::Deserializer::from_slice(value);
        let parsed = parser.deserialize_map(Object { row: self, path: &mut path });
        parsed
            .and_then(|()| parser.end())
            .map_err(|error| Unconvertible { field: path.told(), problem: error.to_string() })
    }

    /// Fills it with nothing, as of a tombstone.
    pub(crate) fn nothing(mut self) -> Result<(), Unconvertible> {
        self.rest().map_err(|at| Unconvertible {
            field: Some(self.fields[at].name.clone()),
            problem: "the record has no value, and the field is required".to_owned(),
        })
    }

    /// Nulls where nothing came; the field that had to come, if one did not.
    fn rest(&mut self) -> Result<(), usize> {
        for (at, column) in self.values.iter_mut().enumerate() {
            if self.seen[at] != self.number {
                if self.fields[at].is_required {
                    return Err(at);
                }
                column.null();
            }
        }
        Ok(())
    }
}

/// Where in a value reading failed, from within: each that holds the place adds itself on the way out.
struct Path<'f>(Vec<Part<'f>>);

enum Part<'f> {
    Field(&'f str),
    Index(usize),
    Key(String),
}

impl Path<'_> {
    fn told(&self) -> Option<String> {
        let mut told = String::new();
        for part in self.0.iter().rev() {
            match part {
                Part::Field(name) if told.is_empty() => told += name,
                Part::Field(name) => told += &format!(".{name}"),
                Part::Index(index) => told += &format!("[{index}]"),
                Part::Key(key) => told += &format!("[{key:?}]"),
            }
        }
        (!told.is_empty()).then_some(told)
    }
}

/// An object's fields.
struct Object<'f, 'c> {
    row: Row<'f, 'c>,
    path: &'c mut Path<'f>,
}

impl<'de> Visitor<'de> for Object<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        let Self { mut row, path } = self;
        // Most producers write the fields in one order.
        let mut guess = 0;
        while let Some(found) = map.next_key_seed(Name { fields: row.fields, guess })? {
            let Some(index) = found else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            guess = index + 1;
            let field = &row.fields[index];
            let is_second = std::mem::replace(&mut row.seen[index], row.number) == row.number;
            let taken = match is_second {
                true => Err(M::Error::custom("the field comes twice")),
                false => map.next_value_seed(Value { field, column: &mut row.values[index], path }),
            };
            taken.inspect_err(|_| path.0.push(Part::Field(&field.name)))?;
        }
        row.rest().map_err(|missing| {
            path.0.push(Part::Field(&row.fields[missing].name));
            M::Error::custom("the field is required, and missing")
        })
    }
}

/// A field's name, as its place among those that are declared.
struct Name<'a> {
    fields: &'a [JsonField],
    guess: usize,
}

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Option<usize>, E> {
        match self.fields.get(self.guess) {
            Some(field) if field.name == name => Ok(Some(self.guess)),
            _ => Ok(self.fields.iter().position(|field| field.name == name)),
        }
    }
}

/// A field's value.
struct Value<'f, 'c> {
    field: &'f JsonField,
    column: &'c mut Column,
    path: &'c mut Path<'f>,
}

impl<'de> DeserializeSeed<'de> for Value<'_, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.field.kind {
            // By its text: on the way through a float of 64 bits it would be rounded.
            Kind::Float32 | Kind::Decimal { .. } => {
                let raw = <&RawValue>::deserialize(deserializer)?;
                self.number(raw.get())
            }
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl Value<'_, '_> {
    /// A number that is made of its text.
    fn number<E: Error>(self, text: &str) -> Result<(), E> {
        if text == "null" {
            return self.visit_unit();
        }
        match (&self.field.kind, self.column) {
            (Kind::Float32, Column::Float32(column)) if is_number(text) => {
                let float: f32 = text.parse().map_err(E::custom)?;
                if !float.is_finite() {
                    return Err(E::custom("number out of range"));
                }
                let is_whole = !text.contains(['.', 'e', 'E']);
                if is_whole && text.parse::<i128>().is_ok_and(|whole| float as i128 != whole) {
                    return Err(E::custom(format!(
                        "{text} would be rounded as float32; int64 and string keep it"
                    )));
                }
                column.append_value(float);
            }
            (Kind::Decimal { precision, scale }, Column::Decimal(column)) => {
                // Text is how most write them who want them exact.
                let number = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
                match decimal::parse(number, *precision, *scale) {
                    Ok(value) => column.append_value(value),
                    Err(NoDecimal::NoNumber) => return Err(mismatch(&self.field.kind, text)),
                    Err(NoDecimal::Rounded) => {
                        let problem =
                            format!("{} would be rounded as {}", cut(text), self.field.kind.expected());
                        return Err(E::custom(problem));
                    }
                    Err(NoDecimal::TooLarge) => {
                        let problem =
                            format!("{} is too large for {}", cut(text), self.field.kind.expected());
                        return Err(E::custom(problem));
                    }
                }
            }
            (kind, _) => return Err(mismatch(kind, text)),
        }
        Ok(())
    }
}

fn is_number(text: &str) -> bool {
    text.starts_with(|first: char| first == '-' || first.is_ascii_digit())
}

impl<'de> Visitor<'de> for Value<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.field.kind.expected())?;
        if !self.field.is_required { f.write_str(", or null") } else { Ok(()) }
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        if self.field.is_required {
            return Err(E::custom("the field is required, and null"));
        }
        self.column.null();
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        match self.column {
            Column::Bool(column) => column.append_value(value),
            _ => return Err(E::invalid_type(Unexpected::Bool(value), &self)),
        }
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        let kind = &self.field.kind;
        match self.column {
            Column::Int32(column) => match i32::try_from(value) {
                Ok(value) => column.append_value(value),
                Err(_) => return Err(mismatch(kind, &value.to_string())),
            },
            Column::Int64(column) => column.append_value(value),
            Column::Float64(column) => column.append_value(exact(value.into())?),
            Column::Timestamp(column) => match value.checked_mul(1000) {
                Some(micros) => column.append_value(micros),
                None => return Err(E::custom(format!("{value} is no time in milliseconds since 1970"))),
            },
            _ => return Err(mismatch(kind, &value.to_string())),
        }
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        match (i64::try_from(value), &mut *self.column) {
            (Ok(value), _) => self.visit_i64(value),
            (Err(_), Column::Float64(column)) => {
                column.append_value(exact(value.into())?);
                Ok(())
            }
            (Err(_), _) => Err(mismatch(&self.field.kind, &value.to_string())),
        }
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        match self.column {
            Column::Float64(column) => column.append_value(value),
            _ => return Err(mismatch(&self.field.kind, &value.to_string())),
        }
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        let mismatched = || mismatch(&self.field.kind, &format!("{:?}", cut(value)));
        match self.column {
            Column::String(column) => column.append_value(value),
            Column::Timestamp(column) => match usual_time(value.as_bytes()) {
                Some(micros) => column.append_value(micros),
                None => match value.parse::<jiff::Timestamp>() {
                    Ok(time) if time.subsec_nanosecond() % 1_000 != 0 => {
                        return Err(E::custom(format!(
                            "{value:?} would be rounded: a table's times have microseconds"
                        )));
                    }
                    Ok(time) => column.append_value(time.as_microsecond()),
                    Err(_) => return Err(mismatched()),
                },
            },
            Column::Date(column) => column.append_value(days(value).ok_or_else(mismatched)?),
            Column::Binary(column) => {
                column.append_value(STANDARD.decode(value).map_err(|_| mismatched())?);
            }
            _ => return Err(mismatched()),
        }
        Ok(())
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut items: S) -> Result<(), S::Error> {
        let (Kind::List(item), Column::List(column)) = (&self.field.kind, &mut *self.column) else {
            return Err(S::Error::invalid_type(Unexpected::Seq, &self));
        };
        let ListColumn { items: values, .. } = column;
        let mut count = 0;
        loop {
            let taken = items.next_element_seed(Value { field: item, column: values, path: self.path });
            match taken.inspect_err(|_| self.path.0.push(Part::Index(count)))? {
                Some(()) => count += 1,
                None => break,
            }
        }
        column.push(count);
        Ok(())
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        match (&self.field.kind, &mut *self.column) {
            (Kind::Struct(fields), Column::Struct(column)) => {
                column.number += 1;
                let (values, seen, number) = (&mut column.columns[..], &mut column.seen[..], column.number);
                Object { row: Row { fields, values, seen, number }, path: self.path }.visit_map(map)?;
                column.push();
            }
            (Kind::Map(value), Column::Map(column)) => {
                let MapColumn { keys, values, .. } = column;
                let mut seen = HashSet::new();
                while let Some(key) = map.next_key::<String>()? {
                    let taken = match seen.contains(&key) {
                        true => Err(M::Error::custom("the key comes twice")),
                        false => map.next_value_seed(Value { field: value, column: values, path: self.path }),
                    };
                    taken.inspect_err(|_| self.path.0.push(Part::Key(cut(&key))))?;
                    keys.append_value(&key);
                    seen.insert(key);
                }
                column.push(seen.len());
            }
            _ => return Err(M::Error::invalid_type(Unexpected::Map, &self)),
        }
        Ok(())
    }
}

/// The microseconds since 1970 of a time as most programs write it, as in `2024-05-01T12:00:00.123Z`, at a fraction of the price.
/// Nothing is said of any other: it may be one all the same.
fn usual_time(text: &[u8]) -> Option<i64> {
    const FORM: &[u8; 19] = b"0000-00-00T00:00:00";
    let (whole, rest) = text.split_first_chunk::<{ FORM.len() }>()?;
    let is_it = |(byte, form): (&u8, &u8)| if *form == b'0' { byte.is_ascii_digit() } else { byte == form };
    if !whole.iter().zip(FORM).all(is_it) {
        return None;
    }
    let number = |from: usize, digits: usize| {
        whole[from..from + digits].iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'))
    };
    let (year, month, day) = (number(0, 4), number(5, 2), number(8, 2));
    let (hour, minute, second) = (number(11, 2), number(14, 2), number(17, 2));
    let fraction = match rest {
        b"Z" => 0,
        [b'.', digits @ .., b'Z']
            if (1..=6).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit) =>
        {
            let fraction = digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'));
            fraction * 10_i64.pow(6 - u32::try_from(digits.len()).expect("they are few"))
        }
        _ => return None,
    };
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        _ => return None,
    };
    // The last days that a time may have are not told here.
    if !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 59 || year == 9999 {
        return None;
    }
    // Years begin in March, so that the day which only some have is the last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leaps = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days = year * 365 + leaps + (month * 153 + 2) / 5 + day - 1 - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000 + fraction)
}

/// A day in its one spelling, as days since 1970. The parser also takes times, and would drop them.
fn days(text: &str) -> Option<i32> {
    let date = text.parse::<jiff::civil::Date>().ok().filter(|date| date.to_string() == text)?;
    let since = date.duration_since(jiff::civil::date(1970, 1, 1));
    i32::try_from(since.as_hours() / 24).ok()
}

/// A whole number as a float.
fn exact<E: Error>(value: i128) -> Result<f64, E> {
    let float = value as f64;
    match float as i128 == value {
        true => Ok(float),
        false => Err(E::custom(format!("{value} would be rounded as float64; int64 and string keep it"))),
    }
}

fn mismatch<E: Error>(kind: &Kind, value: &str) -> E {
    E::custom(format!("{} is not {}", cut(value), kind.expected()))
}

/// The beginning of a text, enough to know it by.
fn cut(text: &str) -> String {
    const SHOWN_MAX: usize = 60;
    let cut = text.char_indices().nth(SHOWN_MAX);
    cut.map_or_else(|| text.to_owned(), |(at, _)| format!("{}…", &text[..at]))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::cast::AsArray;
    use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
    use client::{ConsumedRecord, TimestampType};
    use expect_test::expect;
    use wire::compression::Compression;
    use wire::{LeaderEpoch, Millis, Offset, PartitionId, ProducerEpoch, ProducerId};

    use super::usual_time;
    use crate::columns::{Columns, Format, Shape};
    use crate::kind::{JsonField, Kind};

    fn record(value: Option<&str>) -> ConsumedRecord {
        ConsumedRecord {
            topic: "orders".into(),
            partition: PartitionId(0),
            offset: Offset(0),
            leader_epoch: LeaderEpoch(0),
            timestamp: Millis(0),
            timestamp_type: TimestampType::CreateTime,
            key: None,
            value: value.map(|value| value.as_bytes().to_vec().into()),
            headers: Vec::new(),
            compression: Compression::None,
            is_transactional: false,
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch(-1),
        }
    }

    fn columns() -> Columns {
        let field = |name: &str, kind, is_required| JsonField { name: name.to_owned(), kind, is_required };
        let fields = vec![
            field("id", Kind::Int64, true),
            field("name", Kind::String, false),
            field("price", Kind::Float64, false),
            field("paid", Kind::Bool, false),
            field("at", Kind::Timestamp, false),
        ];
        Columns::new(Arc::new(Shape::new(Format::Json(fields), Vec::new()).unwrap()))
    }

    #[test]
    fn a_time_as_most_write_it_is_what_it_is_to_others() {
        let said = |text: &str| text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_microsecond);
        for year in (0..=9999).step_by(7).chain([4, 100, 400, 1900, 1970, 1999, 2000, 2024, 2100, 9999]) {
            for (month, day) in
                (0..=13).flat_map(|month| [0, 1, 15, 28, 29, 30, 31, 32].map(|day| (month, day)))
            {
                let text = format!("{year:04}-{month:02}-{day:02}T23:59:58.000001Z");
                let expected = said(&text).filter(|_| year < 9999);
                assert_eq!(usual_time(text.as_bytes()), expected, "{text}");
            }
        }
        for usual in ["T00:00:00Z", "T12:34:56.7Z", "T12:34:56.78Z", "T12:34:56.789Z", "T23:59:59.999999Z"] {
            let text = format!("1969-12-31{usual}");
            assert!(said(&text).is_some());
            assert_eq!(usual_time(text.as_bytes()), said(&text), "{text}");
        }
        for other in [
            "",
            "Z",
            "T24:00:00Z",
            "T23:60:00Z",
            "T23:59:60Z",
            "T23:59:59",
            "T23:59:59.Z",
            "T23:59:59+01:00",
            "T23:59:59.1234567Z",
            "T23:59:59.12a4Z",
            "T23:59:59ZZ",
            "t23:59:59z",
            " 23:59:59Z",
            "T2:59:59Z",
        ] {
            assert_eq!(usual_time(format!("2024-05-01{other}").as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn fields_come_in_any_order_and_what_is_not_declared_is_left_out() {
        let mut columns = columns();
        for value in [
            r#"{"id":1,"name":"a \"b\" \u00e4","price":1.5,"paid":true,"at":"2024-05-01T12:00:00.5+02:00"}"#,
            r#"{"x":{"id":[7]},"at":1714557600000,"price":3,"id":-2}"#,
            r#" { "id" : 3 , "name" : null } "#,
        ] {
            columns.append(&record(Some(value))).unwrap();
        }
        let batch = columns.finish();
        let ids = batch.column(0).as_primitive::<Int64Type>();
        assert_eq!(ids.values(), &[1, -2, 3]);
        let names = batch.column(1).as_string::<i32>();
        assert_eq!(names.iter().collect::<Vec<_>>(), [Some("a \"b\" ä"), None, None]);
        let prices = batch.column(2).as_primitive::<Float64Type>();
        assert_eq!(prices.iter().collect::<Vec<_>>(), [Some(1.5), Some(3.0), None]);
        assert_eq!(batch.column(3).as_boolean().iter().collect::<Vec<_>>(), [Some(true), None, None]);
        let times = batch.column(4).as_primitive::<TimestampMicrosecondType>();
        let times: Vec<_> = times.iter().collect();
        assert_eq!(times, [Some(1_714_557_600_500_000), Some(1_714_557_600_000_000), None]);
    }

    #[test]
    fn what_is_no_row_says_why_and_leaves_none() {
        let told = |value: Option<&str>| {
            let mut columns = columns();
            columns.append(&record(Some(r#"{"id":1,"paid":false}"#))).unwrap();
            let problem = columns.append(&record(value)).unwrap_err();
            assert_eq!(columns.finish().num_rows(), 1);
            format!("{}: {}", problem.field.as_deref().unwrap_or("-"), problem.problem)
        };
        let values = [
            r#"{"name":"a"}"#,
            r#"{"id":null}"#,
            r#"{"name":"a","id":1.5}"#,
            r#"{"id":9223372036854775808}"#,
            r#"{"id":"1"}"#,
            r#"{"id":1,"name":2}"#,
            r#"{"id":1,"name":{}}"#,
            r#"{"id":1,"at":"yesterday"}"#,
            r#"{"id":1,"id":2}"#,
            r#"{"id":1,"price":1e999}"#,
            r#"{"id":1,"price":9007199254740993}"#,
            r#"{"id":1,"price":18446744073709551615}"#,
            r#"{"id":1,"at":"2024-05-01T12:00:00.0000001Z"}"#,
            r#"{"id":1"#,
            r#"{"id":1} {"id":2}"#,
            r#"[1]"#,
            "",
        ];
        let all: String = values.iter().map(|value| format!("{value}\n  {}\n", told(Some(value)))).collect();
        expect![[r#"
            {"name":"a"}
              id: the field is required, and missing at line 1 column 12
            {"id":null}
              id: the field is required, and null at line 1 column 10
            {"name":"a","id":1.5}
              id: 1.5 is not a whole number of 64 bits at line 1 column 20
            {"id":9223372036854775808}
              id: 9223372036854775808 is not a whole number of 64 bits at line 1 column 25
            {"id":"1"}
              id: "1" is not a whole number of 64 bits at line 1 column 9
            {"id":1,"name":2}
              name: 2 is not a string at line 1 column 16
            {"id":1,"name":{}}
              name: invalid type: map, expected a string, or null at line 1 column 17
            {"id":1,"at":"yesterday"}
              at: "yesterday" is not a time such as "2024-05-01T12:00:00Z", or milliseconds since 1970 at line 1 column 24
            {"id":1,"id":2}
              id: the field comes twice at line 1 column 12
            {"id":1,"price":1e999}
              price: number out of range at line 1 column 21
            {"id":1,"price":9007199254740993}
              price: 9007199254740993 would be rounded as float64; int64 and string keep it at line 1 column 32
            {"id":1,"price":18446744073709551615}
              price: 18446744073709551615 would be rounded as float64; int64 and string keep it at line 1 column 36
            {"id":1,"at":"2024-05-01T12:00:00.0000001Z"}
              at: "2024-05-01T12:00:00.0000001Z" would be rounded: a table's times have microseconds at line 1 column 43
            {"id":1
              -: EOF while parsing an object at line 1 column 7
            {"id":1} {"id":2}
              -: trailing characters at line 1 column 10
            [1]
              -: invalid type: sequence, expected a JSON object at line 1 column 0

              -: EOF while parsing a value at line 1 column 0
        "#]].assert_eq(&all);
        assert_eq!(told(None), "id: the record has no value, and the field is required");
    }

    fn field(name: &str, kind: Kind) -> JsonField {
        JsonField { name: name.to_owned(), kind, is_required: false }
    }

    fn required(name: &str, kind: Kind) -> JsonField {
        JsonField { is_required: true, ..field(name, kind) }
    }

    fn nested() -> Columns {
        let address = Kind::Struct(vec![
            required("street", Kind::String),
            field("geo", Kind::List(Box::new(required(JsonField::ELEMENT, Kind::Float64)))),
        ]);
        let lines = Kind::Struct(vec![
            required("sku", Kind::Int32),
            field("notes", Kind::List(Box::new(field(JsonField::ELEMENT, Kind::String)))),
        ]);
        let fields = vec![
            required("id", Kind::Int32),
            field("address", address),
            field("tags", Kind::List(Box::new(required(JsonField::ELEMENT, Kind::String)))),
            field("lines", Kind::List(Box::new(field(JsonField::ELEMENT, lines)))),
            field("counts", Kind::Map(Box::new(field(JsonField::VALUE, Kind::Int64)))),
            field("price", Kind::Decimal { precision: 6, scale: 2 }),
            field("day", Kind::Date),
            field("weight", Kind::Float32),
            field("raw", Kind::Bytes),
        ];
        Columns::new(Arc::new(Shape::new(Format::Json(fields), Vec::new()).unwrap()))
    }

    /// Through a Parquet file, as text.
    fn written(batch: &arrow_array::RecordBatch) -> String {
        let mut file = Vec::new();
        let mut writer = parquet::arrow::ArrowWriter::try_new(&mut file, batch.schema(), None).unwrap();
        writer.write(batch).unwrap();
        writer.close().unwrap();
        let file = bytes::Bytes::from(file);
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        let batches: Vec<_> = reader.build().unwrap().map(|batch| batch.unwrap()).collect();
        assert_eq!(&batches[..], std::slice::from_ref(batch));
        batch.columns().iter().map(|column| format!("{column:?}\n")).collect()
    }

    #[test]
    fn objects_lists_and_maps_become_nested_columns() {
        let mut columns = nested();
        let values = [
            r#"{"id":1,"address":{"geo":[1,2.5],"street":"a","zip":7},"tags":["x","y"],"lines":[{"sku":1},null,{"sku":2,"notes":["n",null]}],"counts":{"a":1,"b":null},"price":12.5,"day":"2024-05-01","weight":0.1,"raw":"AAH/"}"#,
            r#"{"id":-2147483648,"tags":[],"counts":{},"lines":[],"price":"-9999.99","day":"1969-12-31","weight":16777216,"raw":""}"#,
            r#"{"id":3,"address":null}"#,
        ];
        for value in values {
            columns.append(&record(Some(value))).unwrap();
        }
        // Behind the whole rows it leaves some of itself.
        let bad = r#"{"id":4,"address":{"street":"b","geo":[7,"x"]}}"#;
        columns.append(&record(Some(bad))).unwrap_err();
        let first = columns.finish();
        assert_eq!(first.num_rows(), 3);
        let told = written(&first);
        for bad in [
            r#"{"id":4,"address":{"street":"b","geo":[7]},"lines":[{"sku":5,"notes":["m"]},{"notes":[]}]}"#,
            r#"{"id":4,"tags":["z"],"counts":{"k":1,"l":"x"}}"#,
        ] {
            columns.append(&record(Some(bad))).unwrap_err();
            assert_eq!(columns.finish().num_rows(), 0);
        }
        for value in values {
            columns.append(&record(Some(value))).unwrap();
        }
        assert_eq!(columns.finish(), first);
        expect![[r#"
            PrimitiveArray<Int32>
            [
              1,
              -2147483648,
              3,
            ]
            StructArray
            -- validity:
            [
              valid,
              null,
              null,
            ]
            [
            -- child 0: "street" (Utf8)
            StringArray
            [
              "a",
              null,
              null,
            ]
            -- child 1: "geo" (List(Field { name: "element", data_type: Float64 }))
            ListArray
            [
              PrimitiveArray<Float64>
            [
              1.0,
              2.5,
            ],
              null,
              null,
            ]
            ]
            ListArray
            [
              StringArray
            [
              "x",
              "y",
            ],
              StringArray
            [
            ],
              null,
            ]
            ListArray
            [
              StructArray
            -- validity:
            [
              valid,
              null,
              valid,
            ]
            [
            -- child 0: "sku" (Int32)
            PrimitiveArray<Int32>
            [
              1,
              null,
              2,
            ]
            -- child 1: "notes" (List(Field { name: "element", data_type: Utf8, nullable: true }))
            ListArray
            [
              null,
              null,
              StringArray
            [
              "n",
              null,
            ],
            ]
            ],
              StructArray
            -- validity:
            [
            ]
            [
            -- child 0: "sku" (Int32)
            PrimitiveArray<Int32>
            [
            ]
            -- child 1: "notes" (List(Field { name: "element", data_type: Utf8, nullable: true }))
            ListArray
            [
            ]
            ],
              null,
            ]
            MapArray
            [
              StructArray
            -- validity:
            [
              valid,
              valid,
            ]
            [
            -- child 0: "key" (Utf8)
            StringArray
            [
              "a",
              "b",
            ]
            -- child 1: "value" (Int64)
            PrimitiveArray<Int64>
            [
              1,
              null,
            ]
            ],
              StructArray
            -- validity:
            [
            ]
            [
            -- child 0: "key" (Utf8)
            StringArray
            [
            ]
            -- child 1: "value" (Int64)
            PrimitiveArray<Int64>
            [
            ]
            ],
              null,
            ]
            PrimitiveArray<Decimal128(6, 2)>
            [
              1250,
              -999999,
              null,
            ]
            PrimitiveArray<Date32>
            [
              2024-05-01,
              1969-12-31,
              null,
            ]
            PrimitiveArray<Float32>
            [
              0.1,
              16777216.0,
              null,
            ]
            BinaryArray
            [
              [0, 1, 255],
              [],
              null,
            ]
        "#]]
        .assert_eq(&told);
    }

    #[test]
    fn what_is_wrong_within_a_value_is_told_with_its_place() {
        let told = |value: &str| {
            let mut columns = nested();
            let problem = columns.append(&record(Some(value))).unwrap_err();
            format!("{value}\n  {}: {}\n", problem.field.as_deref().unwrap_or("-"), problem.problem)
        };
        let values = [
            r#"{"id":2147483648}"#,
            r#"{"id":1,"address":{}}"#,
            r#"{"id":1,"address":{"street":1}}"#,
            r#"{"id":1,"address":{"street":"a","street":"b"}}"#,
            r#"{"id":1,"address":{"street":"a","geo":[0.5,null]}}"#,
            r#"{"id":1,"address":[]}"#,
            r#"{"id":1,"tags":["a","b","c",4]}"#,
            r#"{"id":1,"tags":{"a":1}}"#,
            r#"{"id":1,"tags":"a"}"#,
            r#"{"id":1,"lines":[{"sku":1},{"sku":2,"notes":["n",true]}]}"#,
            r#"{"id":1,"counts":{"a":1,"b":1.5}}"#,
            r#"{"id":1,"counts":{"a":1,"a":2}}"#,
            r#"{"id":1,"counts":[1]}"#,
            r#"{"id":1,"price":0.125}"#,
            r#"{"id":1,"price":10000}"#,
            r#"{"id":1,"price":"ten"}"#,
            r#"{"id":1,"price":{}}"#,
            r#"{"id":1,"day":"2024-05-01T12:00:00"}"#,
            r#"{"id":1,"day":"2024-02-30"}"#,
            r#"{"id":1,"day":19000}"#,
            r#"{"id":1,"weight":16777217}"#,
            r#"{"id":1,"weight":1e39}"#,
            r#"{"id":1,"weight":"1"}"#,
            r#"{"id":1,"raw":"AAH"}"#,
            r#"{"id":1,"raw":7}"#,
        ];
        let all: String = values.into_iter().map(told).collect();
        expect![[r#"
            {"id":2147483648}
              id: 2147483648 is not a whole number of 32 bits at line 1 column 16
            {"id":1,"address":{}}
              address.street: the field is required, and missing at line 1 column 20
            {"id":1,"address":{"street":1}}
              address.street: 1 is not a string at line 1 column 29
            {"id":1,"address":{"street":"a","street":"b"}}
              address.street: the field comes twice at line 1 column 40
            {"id":1,"address":{"street":"a","geo":[0.5,null]}}
              address.geo[1]: the field is required, and null at line 1 column 47
            {"id":1,"address":[]}
              address: invalid type: sequence, expected an object, or null at line 1 column 20
            {"id":1,"tags":["a","b","c",4]}
              tags[3]: 4 is not a string at line 1 column 29
            {"id":1,"tags":{"a":1}}
              tags: invalid type: map, expected a list, or null at line 1 column 16
            {"id":1,"tags":"a"}
              tags: "a" is not a list at line 1 column 18
            {"id":1,"lines":[{"sku":1},{"sku":2,"notes":["n",true]}]}
              lines[1].notes[1]: invalid type: boolean `true`, expected a string, or null at line 1 column 53
            {"id":1,"counts":{"a":1,"b":1.5}}
              counts["b"]: 1.5 is not a whole number of 64 bits at line 1 column 31
            {"id":1,"counts":{"a":1,"a":2}}
              counts["a"]: the key comes twice at line 1 column 27
            {"id":1,"counts":[1]}
              counts: invalid type: sequence, expected an object, or null at line 1 column 18
            {"id":1,"price":0.125}
              price: 0.125 would be rounded as a decimal(6,2) at line 1 column 22
            {"id":1,"price":10000}
              price: 10000 is too large for a decimal(6,2) at line 1 column 22
            {"id":1,"price":"ten"}
              price: "ten" is not a decimal(6,2) at line 1 column 22
            {"id":1,"price":{}}
              price: {} is not a decimal(6,2) at line 1 column 19
            {"id":1,"day":"2024-05-01T12:00:00"}
              day: "2024-05-01T12:00:00" is not a date such as "2024-05-01" at line 1 column 35
            {"id":1,"day":"2024-02-30"}
              day: "2024-02-30" is not a date such as "2024-05-01" at line 1 column 26
            {"id":1,"day":19000}
              day: 19000 is not a date such as "2024-05-01" at line 1 column 19
            {"id":1,"weight":16777217}
              weight: 16777217 would be rounded as float32; int64 and string keep it at line 1 column 26
            {"id":1,"weight":1e39}
              weight: number out of range at line 1 column 22
            {"id":1,"weight":"1"}
              weight: "1" is not a number at line 1 column 21
            {"id":1,"raw":"AAH"}
              raw: "AAH" is not bytes in base64 at line 1 column 19
            {"id":1,"raw":7}
              raw: 7 is not bytes in base64 at line 1 column 15
        "#]]
        .assert_eq(&all);
    }

    #[test]
    fn a_float_is_the_one_that_is_nearest_to_its_text() {
        let mut columns = nested();
        // Nearest to a float of 64 bits that lies exactly between two of 32, and just above it.
        let between = "1.00000005960464477540";
        let value = format!(
            r#"{{"id":1,"address":{{"street":"a","geo":[0.1,4.35,1.7976931348623157e308,5e-324,9.999999999999999999e22]}},"weight":{between}}}"#
        );
        columns.append(&record(Some(&value))).unwrap();
        let batch = columns.finish();
        let weight = batch.column(7).as_primitive::<arrow_array::types::Float32Type>().value(0);
        assert_eq!(weight, between.parse::<f32>().unwrap());
        let geo = batch.column(1).as_struct().column(1).as_list::<i32>().value(0);
        let geo = geo.as_primitive::<Float64Type>();
        assert_eq!(geo.values(), &[0.1, 4.35, f64::MAX, 5e-324, "9.999999999999999999e22".parse().unwrap()]);
    }
}
