//! A setting's value: parsed from text, checked against the row's bounds, turned into the Rust type of the field.
//! Parsing follows Kafka's rules (trimmed, `true`/`false` in any case, lists split at commas) so that a file means the
//! same here as there. Refusals are worded as Kafka's tools show them. Nothing here knows any particular setting.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use thiserror::Error;
use wire::Millis;

use super::client_match::patterns;
use super::row::{Allowed, Kind};

/// A parsed value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Of a boolean.
    Boolean(bool),
    /// Of a short, int or long; the kind's range has been checked.
    Number(i64),
    /// Of a double.
    Double(f64),
    /// Of a string or password.
    Text(String),
    /// Of a list.
    List(Vec<String>),
}

/// Why a text is not a value of a setting; the wording is Kafka's, whose tools show it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)] // the messages say it
pub enum Violation {
    #[error("Expected value to be either true or false")]
    NotBoolean,
    #[error("Not a number of type {0}")]
    NotNumber(&'static str),
    #[error("Value must be at least {0}")]
    TooSmall(i64),
    #[error("Value must be no more than {0}")]
    TooLarge(i64),
    #[error("Value must be between {low} and {high} or equal to -1")]
    Outside { low: i64, high: i64 },
    #[error("String must be one of: {}", .0.join(", "))]
    NotOneOf(&'static [&'static str]),
    #[error("Configuration must not be empty. Valid values include any non-empty list")]
    Empty,
    #[error("Configuration values must not be empty")]
    EmptyItem,
    #[error(
        "Value must be the literal '*' or a list of replicas in the following format: [partitionId]:[brokerId],[partitionId]:[brokerId],..."
    )]
    NotReplicas,
    #[error("{0} is not an IP address and a count of connections (address:count,...)")]
    NotPerAddress(String),
    #[error(
        "{0} is not a selector and a regular expression (client_instance_id, client_id, client_software_name, client_software_version, client_source_address or client_source_port, =, and the expression)"
    )]
    NotClientMatch(String),
    #[error(
        "Invalid value: expected latest, earliest or by_duration: and a positive ISO 8601 duration (PnDTnHnMn.nS)"
    )]
    NotOffsetReset,
}

impl Value {
    /// Reads a text as a value of this kind; bounds are checked separately.
    pub fn parse(kind: Kind, text: &str) -> Result<Value, Violation> {
        let text = text.trim();
        let number = |low: i64, high: i64| {
            let number: i64 = text.parse().map_err(|_| Violation::NotNumber(kind.name()))?;
            if number < low || number > high {
                return Err(Violation::NotNumber(kind.name()));
            }
            Ok(Value::Number(number))
        };
        match kind {
            Kind::Boolean if text.eq_ignore_ascii_case("true") => Ok(Value::Boolean(true)),
            Kind::Boolean if text.eq_ignore_ascii_case("false") => Ok(Value::Boolean(false)),
            Kind::Boolean => Err(Violation::NotBoolean),
            Kind::Short => number(i16::MIN.into(), i16::MAX.into()),
            Kind::Int => number(i32::MIN.into(), i32::MAX.into()),
            Kind::Long => number(i64::MIN, i64::MAX),
            Kind::Double => match text.parse::<f64>() {
                Ok(number) if !number.is_nan() => Ok(Value::Double(number)),
                _ => Err(Violation::NotNumber(kind.name())),
            },
            Kind::String | Kind::Password => Ok(Value::Text(text.to_owned())),
            Kind::List => Ok(Value::List(list_items(text))),
        }
    }

    /// The value as a properties file would hold it.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Value::Boolean(yes) => yes.to_string(),
            Value::Number(number) => number.to_string(),
            Value::Double(number) => java_double(*number),
            Value::Text(text) => text.clone(),
            Value::List(items) => items.join(","),
        }
    }
}

/// A duration as ISO 8601 writes it, `PnDTnHnMn.nS`, as far as Java reads it and it is not negative.
pub(crate) fn iso_duration(text: &str) -> Option<Duration> {
    let upper = text.to_ascii_uppercase();
    let (date, time) = match upper.strip_prefix('P')?.split_once('T') {
        Some((_, "")) => return None,
        Some((date, time)) => (date, time),
        None => (upper.strip_prefix('P')?, ""),
    };
    let mut total = Duration::ZERO;
    let mut parts = 0;
    let mut take = |mut text: &str, units: &[(char, u64)]| {
        let mut units = units.iter();
        while !text.is_empty() {
            let end = text.find(|c: char| c.is_ascii_alphabetic())?;
            let unit = text[end..].chars().next()?;
            let (_, seconds) = units.by_ref().find(|(name, _)| *name == unit)?;
            let (whole, fraction) = text[..end].split_once('.').unwrap_or((&text[..end], ""));
            let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
            if whole.is_empty() || !is_number(whole) || !is_number(fraction) || fraction.len() > 9 {
                return None;
            }
            if unit != 'S' && text[..end].contains('.') {
                return None;
            }
            let nanos = format!("{fraction:0<9}").parse().ok()?;
            let seconds = whole.parse::<u64>().ok()?.checked_mul(*seconds)?;
            total = total.checked_add(Duration::new(seconds, nanos))?;
            parts += 1;
            text = &text[end + 1..];
        }
        Some(())
    };
    take(date, &[('D', 86_400)])?;
    take(time, &[('H', 3_600), ('M', 60), ('S', 1)])?;
    (parts > 0).then_some(total)
}

/// Counts by address, as `address:count,…`; the last one of an address counts.
pub(crate) fn per_address(text: &str) -> Result<BTreeMap<IpAddr, usize>, Violation> {
    let item = |item: &String| {
        let (address, count) = item.rsplit_once(':')?;
        // IPv6 addresses may stand in brackets, as in URLs.
        let address = address.trim().trim_start_matches('[').trim_end_matches(']');
        let count: u32 = count.trim().parse().ok()?;
        Some((address.parse::<IpAddr>().ok()?.to_canonical(), count as usize))
    };
    let items = list_items(text);
    items.iter().map(|text| item(text).ok_or_else(|| Violation::NotPerAddress(text.clone()))).collect()
}

/// Items of a list value; an empty text is an empty list.
#[must_use]
pub(super) fn list_items(text: &str) -> Vec<String> {
    let text = text.trim();
    if text.is_empty() {
        return Vec::new();
    }
    text.split(',').map(|item| item.trim().to_owned()).collect()
}

/// Doubles as Java prints them, because tools compare texts: always a fraction, an exponent outside 10^-3..10^7.
fn java_double(number: f64) -> String {
    let magnitude = number.abs();
    if magnitude == 0.0 || (1e-3..1e7).contains(&magnitude) {
        return format!("{number:?}");
    }
    let scientific = format!("{number:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let fraction = if mantissa.contains('.') { "" } else { ".0" };
    format!("{mantissa}{fraction}E{exponent}")
}

impl Allowed {
    /// Checks a value of the row's kind against the row's bounds.
    pub fn check(&self, value: &Value) -> Result<(), Violation> {
        match (*self, value) {
            (Allowed::Any, _) => Ok(()),
            (Allowed::AtLeast(low), Value::Number(n)) => at_least(low, *n >= low),
            (Allowed::AtLeast(low), Value::Double(n)) => at_least(low, *n >= low as f64),
            (Allowed::Between(low, high), Value::Number(n)) => {
                at_least(low, *n >= low)?;
                at_most(high, *n <= high)
            }
            (Allowed::Between(low, high), Value::Double(n)) => {
                at_least(low, *n >= low as f64)?;
                at_most(high, *n <= high as f64)
            }
            (Allowed::BetweenOrMinusOne(low, high), Value::Number(n)) => {
                if *n == -1 || (low..=high).contains(n) {
                    Ok(())
                } else {
                    Err(Violation::Outside { low, high })
                }
            }
            (Allowed::ClientMatch, Value::List(items)) => {
                patterns(items).map(drop).map_err(Violation::NotClientMatch)
            }
            (Allowed::OffsetReset, Value::Text(text)) => {
                let is_duration = |text: &str| iso_duration(text).is_some();
                let by_duration = text.strip_prefix("by_duration:").is_some_and(is_duration);
                let is_fine = by_duration || text == "latest" || text == "earliest";
                if is_fine { Ok(()) } else { Err(Violation::NotOffsetReset) }
            }
            (Allowed::PerAddress, Value::Text(text)) => per_address(text).map(drop),
            (Allowed::OneOf(words), Value::Text(text)) => one_of(words, text),
            (Allowed::OneOf(words), Value::List(items)) => {
                items.iter().try_for_each(|item| one_of(words, item))
            }
            (Allowed::NotEmpty, Value::List(items)) => match items.iter().any(String::is_empty) {
                true => Err(Violation::EmptyItem),
                false if items.is_empty() => Err(Violation::Empty),
                false => Ok(()),
            },
            (Allowed::NotEmpty, Value::Text(text)) if text.is_empty() => Err(Violation::Empty),
            (Allowed::NotEmpty, Value::Text(_)) => Ok(()),
            (Allowed::ThrottledReplicas, Value::List(items)) => {
                let all = items.len() == 1 && items[0] == "*";
                if all || items.iter().all(|item| is_replica(item)) {
                    Ok(())
                } else {
                    Err(Violation::NotReplicas)
                }
            }
            (allowed, value) => unreachable!("the table pairs {allowed:?} with {value:?}"),
        }
    }
}

fn at_least(low: i64, holds: bool) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation::TooSmall(low)) }
}

fn at_most(high: i64, holds: bool) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation::TooLarge(high)) }
}

fn one_of(words: &'static [&'static str], text: &str) -> Result<(), Violation> {
    if words.contains(&text) { Ok(()) } else { Err(Violation::NotOneOf(words)) }
}

fn is_replica(item: &str) -> bool {
    let Some((partition, broker)) = item.split_once(':') else { return false };
    partition.parse::<u32>().is_ok() && broker.parse::<u32>().is_ok()
}

/// The Rust type of a field of the table.
///
/// Implemented for plain types, so that a row's type is the type its reader wants. A value has passed the row's bounds
/// before it gets here; a row whose type cannot take every allowed value saturates.
pub(super) trait FieldType {
    /// Converts a checked value; `None` is Kafka's null.
    fn from_value(value: Option<&Value>) -> Self;
}

fn number(value: Option<&Value>) -> Option<i64> {
    match value {
        Some(Value::Number(number)) => Some(*number),
        None => None,
        Some(other) => unreachable!("the table declares a number, not {other:?}"),
    }
}

macro_rules! number_field {
    ($($ty:ty),+) => {$(
        impl FieldType for $ty {
            fn from_value(value: Option<&Value>) -> Self {
                let number = number(value).expect("the table gives every plain number a default");
                <$ty>::try_from(number).unwrap_or(if number < 0 { <$ty>::MIN } else { <$ty>::MAX })
            }
        }
    )+};
}
number_field!(i16, i32, i64, u16, u32, u64, usize);

impl FieldType for Millis {
    fn from_value(value: Option<&Value>) -> Self {
        Millis(i64::from_value(value))
    }
}

impl FieldType for Duration {
    fn from_value(value: Option<&Value>) -> Self {
        Duration::from_millis(u64::from_value(value))
    }
}

/// For numbers, null and every negative value mean "no bound".
impl<T: FieldType> FieldType for Option<T> {
    fn from_value(value: Option<&Value>) -> Self {
        match value {
            None => None,
            Some(Value::Number(number)) if *number < 0 => None,
            Some(_) => Some(T::from_value(value)),
        }
    }
}

impl FieldType for bool {
    fn from_value(value: Option<&Value>) -> Self {
        match value {
            Some(Value::Boolean(yes)) => *yes,
            other => unreachable!("the table declares a boolean, not {other:?}"),
        }
    }
}

impl FieldType for f64 {
    fn from_value(value: Option<&Value>) -> Self {
        match value {
            Some(Value::Double(number)) => *number,
            other => unreachable!("the table declares a double, not {other:?}"),
        }
    }
}

impl FieldType for String {
    fn from_value(value: Option<&Value>) -> Self {
        match value {
            Some(Value::Text(text)) => text.clone(),
            other => unreachable!("the table declares a text, not {other:?}"),
        }
    }
}

impl FieldType for Vec<String> {
    fn from_value(value: Option<&Value>) -> Self {
        match value {
            Some(Value::List(items)) => items.clone(),
            None => Vec::new(),
            other => unreachable!("the table declares a list, not {other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_java_reads_them() {
        let seconds = |text| iso_duration(text).map(|duration| duration.as_secs_f64());
        assert_eq!(seconds("P1DT2H3M4.5S"), Some(93_784.5));
        assert_eq!(seconds("pt15m"), Some(900.0));
        assert_eq!(seconds("P0D"), Some(0.0));
        for no in
            ["", "P", "PT", "P1DT", "1D", "P1H", "PT1D", "PT-1S", "-PT1S", "PT1.5H", "PT1S1M", "PT.5S", "P1W"]
        {
            assert_eq!(iso_duration(no), None, "{no}");
        }
        assert_eq!(iso_duration("P999999999999999999999D"), None);
        assert_eq!(iso_duration("P999999999999999D"), None);
    }

    #[test]
    fn counts_by_address_are_read_however_the_address_is_written() {
        let counts = per_address("10.0.0.1:5, [::1]:7,::ffff:10.0.0.2:9").unwrap();
        let of = |ip: &str| counts.get(&ip.parse::<IpAddr>().unwrap()).copied();
        assert_eq!((of("10.0.0.1"), of("::1"), of("10.0.0.2")), (Some(5), Some(7), Some(9)));
        assert!(per_address("").unwrap().is_empty());
        for no in ["host:5", "10.0.0.1", "10.0.0.1:-1", "10.0.0.1:", ":5"] {
            assert_eq!(per_address(no), Err(Violation::NotPerAddress(no.to_owned())));
        }
    }
}
