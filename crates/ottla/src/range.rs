//! The notation of offsets: where to begin and, behind a colon, where to end.
//!
//! rpk's: `start`, `end`, `N`, `+N` after the start, `-N` before the end, `@TIME`, and `FROM:TO` of these. A time
//! is a Unix time in seconds or milliseconds, a date, a date and time, or an age such as `-1h30m`. The clock is an
//! argument.

use client::Start;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, civil};
use wire::{Millis, Offset};

/// From where to where to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) from: Point,
    /// Where reading ends: before this point, as it was when the command began.
    pub(crate) to: Option<Point>,
}

/// A place in every partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    Place(Start),
    /// That long before now; negative is after.
    Age(SignedDuration),
}

impl Point {
    /// The place, at this time of day.
    pub(crate) fn at(self, now: Millis) -> Start {
        match self {
            Self::Place(start) => start,
            Self::Age(age) => Start::At(Millis(now.0.saturating_sub(age.as_millis() as i64))),
        }
    }
}

impl Point {
    /// Parses one place as it stands on the command line; a time needs no `@` here. Offsets mean something else in each partition,
    /// and a number alone could be a time: it is refused.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if is_number {
            return Err(format!("{text} could be a time or an offset; say @{text} for the time"));
        }
        if let Some(point) = point(text) {
            return Ok(point);
        }
        time(text.strip_prefix('@').unwrap_or(text)).map_err(|_no_time| {
            format!(
                "{text:?} is no place; start, end, +N, -N, @1700000000000, 2026-01-31, 2026-01-31T12:00:00Z and -1h are"
            )
        })
    }
}

impl Range {
    /// Parses a range as it stands on the command line.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let problem = || format!("{text:?} is no offset; start, end, N, +N, -N and @TIME are, and START:END");
        if let Some(times) = text.strip_prefix('@') {
            // A time may hold colons itself: the first cut that gives two times is the one meant.
            if let Ok(from) = time(times) {
                return Ok(Self { from, to: None });
            }
            let cuts = times.match_indices(':').map(|(at, _)| (&times[..at], &times[at + 1..]));
            for (from, to) in cuts {
                let from = match from {
                    "" => Ok(Point::Place(Start::Earliest)),
                    from => time(from),
                };
                let to = match to.strip_prefix('@').unwrap_or(to) {
                    "end" => Ok(Some(Point::Place(Start::Latest))),
                    "" => Ok(None),
                    to => time(to).map(Some),
                };
                if let (Ok(from), Ok(to)) = (from, to) {
                    return Ok(Self { from, to });
                }
            }
            return Err(format!(
                "{text:?} holds no time; @1700000000000, @2026-01-31, @2026-01-31T12:00:00Z and @-1h do"
            ));
        }
        match text.split_once(':') {
            None => Ok(Self { from: point(text).ok_or_else(problem)?, to: None }),
            Some((from, to)) => {
                let from = match from {
                    "" => Point::Place(Start::Earliest),
                    from => point(from).ok_or_else(problem)?,
                };
                let to = match to {
                    "" => None,
                    to => Some(point(to).ok_or_else(problem)?),
                };
                Ok(Self { from, to })
            }
        }
    }
}

fn point(text: &str) -> Option<Point> {
    let number = |digits: &str| {
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<i64>().ok()).flatten()
    };
    let start = match text {
        "start" | "oldest" | "earliest" => Start::Earliest,
        "end" | "newest" | "latest" => Start::Latest,
        _ => match text.split_at_checked(1)? {
            ("+", records) => Start::AfterEarliest(number(records)?),
            ("-", records) => Start::BeforeLatest(number(records)?),
            _ => Start::Offset(Offset(number(text)?)),
        },
    };
    Some(Point::Place(start))
}

fn time(text: &str) -> Result<Point, String> {
    let at = |millis: i64| Ok(Point::Place(Start::At(Millis(millis))));
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let number: i64 = text.parse().map_err(|_| "too large".to_owned())?;
        // Ten digits count seconds until the year 2286; milliseconds have had more since 2001.
        return at(if text.len() <= 10 { number * 1000 } else { number });
    }
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return at(timestamp.as_millisecond());
    }
    if let Ok(date) = text.parse::<civil::DateTime>() {
        let timestamp = TimeZone::UTC.to_timestamp(date).map_err(|error| error.to_string())?;
        return at(timestamp.as_millisecond());
    }
    let (sign, age) = match text.split_at_checked(1) {
        Some(("-", age)) => (1, age),
        Some(("+", age)) => (-1, age),
        _ => (1, text),
    };
    let age: SignedDuration = age.parse().map_err(|_| "no time".to_owned())?;
    Ok(Point::Age(age * sign))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use wire::Millis;

    use super::{Point, Range};

    #[test]
    fn a_place_for_many_partitions_is_no_bare_number() {
        let parse = |text: &str| match Point::parse(text) {
            Ok(point) => format!("{:?}", point.at(Millis(10_000_000))),
            Err(problem) => problem,
        };
        expect!["Earliest"].assert_eq(&parse("start"));
        expect!["BeforeLatest(3)"].assert_eq(&parse("-3"));
        expect!["At(Millis(6400000))"].assert_eq(&parse("-1h"));
        expect!["At(Millis(4600000))"].assert_eq(&parse("1h30m"));
        expect!["At(Millis(13600000))"].assert_eq(&parse("1h ago"));
        expect!["At(Millis(1700000000123))"].assert_eq(&parse("@1700000000123"));
        expect!["At(Millis(1769860800000))"].assert_eq(&parse("2026-01-31T12:00:00Z"));
        expect!["1700000000 could be a time or an offset; say @1700000000 for the time"]
            .assert_eq(&parse("1700000000"));
        expect![[
            r#""soon" is no place; start, end, +N, -N, @1700000000000, 2026-01-31, 2026-01-31T12:00:00Z and -1h are"#
        ]]
        .assert_eq(&parse("soon"));
    }

    fn check(text: &str, expected: Expect) {
        let now = Millis(10_000_000);
        expected.assert_eq(&match Range::parse(text) {
            Ok(range) => match range.to {
                None => format!("{:?}", range.from.at(now)),
                Some(to) => format!("{:?} to {:?}", range.from.at(now), to.at(now)),
            },
            Err(problem) => problem,
        });
    }

    #[test]
    fn places_are_absolute_or_counted_from_an_end() {
        check("start", expect!["Earliest"]);
        check("end", expect!["Latest"]);
        check("47", expect!["Offset(Offset(47))"]);
        check("+3", expect!["AfterEarliest(3)"]);
        check("-3", expect!["BeforeLatest(3)"]);
        check("10:20", expect!["Offset(Offset(10)) to Offset(Offset(20))"]);
        check(":end", expect!["Earliest to Latest"]);
        check("-5:end", expect!["BeforeLatest(5) to Latest"]);
    }

    #[test]
    fn times_are_dates_numbers_or_ages() {
        check("@1700000000", expect!["At(Millis(1700000000000))"]);
        check("@1700000000123", expect!["At(Millis(1700000000123))"]);
        check("@2026-01-31", expect!["At(Millis(1769817600000))"]);
        check("@2026-01-31T12:00:00Z", expect!["At(Millis(1769860800000))"]);
        check("@2026-01-31T12:00:00+02:00", expect!["At(Millis(1769853600000))"]);
        check("@-1h", expect!["At(Millis(6400000))"]);
        check("@1h30m", expect!["At(Millis(4600000))"]);
        check("@-1h:-30m", expect!["At(Millis(6400000)) to At(Millis(8200000))"]);
        check("@2026-01-31T12:00:00Z:end", expect!["At(Millis(1769860800000)) to Latest"]);
        check("@2026-01-31:2026-02-01", expect!["At(Millis(1769817600000)) to At(Millis(1769904000000))"]);
    }

    #[test]
    fn what_is_neither_is_refused() {
        check(
            "sometime",
            expect![[r#""sometime" is no offset; start, end, N, +N, -N and @TIME are, and START:END"#]],
        );
        check("-", expect![[r#""-" is no offset; start, end, N, +N, -N and @TIME are, and START:END"#]]);
        check("", expect![[r#""" is no offset; start, end, N, +N, -N and @TIME are, and START:END"#]]);
        check(
            "99999999999999999999",
            expect![[
                r#""99999999999999999999" is no offset; start, end, N, +N, -N and @TIME are, and START:END"#
            ]],
        );
        check(
            "@tomorrow",
            expect![[
                r#""@tomorrow" holds no time; @1700000000000, @2026-01-31, @2026-01-31T12:00:00Z and @-1h do"#
            ]],
        );
    }
}
