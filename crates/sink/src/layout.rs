//! How a table is laid out in directories: by a time, by fields of the value, or by both.
//!
//! The layouts by records' timestamps alone are three. Any other goes by fields as well, and is kept under a word that says which: a range
//! that was frozen is repeated by its own layout, whatever is declared by then. Names of directories are made and read here and nowhere
//! else, as Hive, Spark and DuckDB read them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz;
use wire::Millis;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// How a table is laid out in directories, times in UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Layout {
    /// `dt=YYYY-MM-DD/hour=HH`, by the record's timestamp.
    #[default]
    Hour,
    /// `dt=YYYY-MM-DD`, by the record's timestamp.
    Day,
    /// All in the table's own directory.
    Flat,
    /// By fields of the value, as [`Layout::by`] gives it.
    Fields(&'static FieldLayout),
}

/// A layout by fields. There are few of them, and each is kept as long as the process runs: so it is passed on as a number is.
#[derive(Debug, PartialEq, Eq)]
pub struct FieldLayout {
    /// As it is kept.
    word: String,
    /// What the directories of time are.
    time: Layout,
    time_field: Option<String>,
    fields: Vec<String>,
}

/// What is wrong with a layout by fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misplaced {
    /// Where.
    pub at: MisplacedAt,
    /// What.
    pub problem: String,
}

/// Where something is wrong with a layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MisplacedAt {
    /// The field that says the time.
    TimeField,
    /// The field of this place among those of directories.
    Field(usize),
    /// All of it.
    Whole,
}

/// Where Hive puts what has no value to go by.
pub(crate) const UNKNOWN: &str = "__HIVE_DEFAULT_PARTITION__";
/// What a name in a file system may have.
pub(crate) const NAME_BYTES_MAX: usize = 255;
/// What the directories of fields may have together.
pub(crate) const FIELDS_BYTES_MAX: usize = 512;
/// What is left of a key in an object store, which has 1024 bytes, for what the table's keys begin with: there are directories of
/// fields, of a time that is not known, and a file's name.
pub(crate) const PREFIX_BYTES_MAX: usize = 1024 - FIELDS_BYTES_MAX - 64 - 320;
/// How many fields become directories.
pub(crate) const FIELDS_MAX: usize = 8;
/// Directories deep that a table is by time: `dt=…/hour=…`.
pub(crate) const TIME_DEPTH_MAX: usize = 2;
/// And with those of fields.
pub(crate) const DEPTH_MAX: usize = TIME_DEPTH_MAX + FIELDS_MAX;
/// Layouts that a process gets to know; what is stored may be anything.
const KNOWN_MAX: usize = 1000;
/// Directories of time, by which it is known where those of fields begin.
const OF_TIME: [&str; 2] = ["dt", "hour"];

/// Which time the records of a directory are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Time {
    /// How many directories say it, from the table on.
    pub(crate) depth: usize,
    pub(crate) begin: Millis,
    /// Behind the last.
    pub(crate) end: Millis,
}

impl Layout {
    /// The names of those that are declared by a word.
    pub const NAMES: [&str; 3] = ["hour", "day", "none"];

    /// The one of that name, by records' timestamps alone.
    pub fn named(name: &str) -> Result<Self, String> {
        match name {
            "hour" => Ok(Self::Hour),
            "day" => Ok(Self::Day),
            "none" => Ok(Self::Flat),
            _ => Err(format!("{name:?} is none of {}", Self::NAMES.join(", "))),
        }
    }

    /// The same with the time that this field says, and with a directory for each of those below.
    pub fn by(self, time_field: Option<&str>, fields: &[&str]) -> Result<Self, Misplaced> {
        let time = self.time();
        if let Some(problem) = time_field.and_then(|field| match (time, field) {
            (_, "") => Some("it is empty".to_owned()),
            (Self::Flat, _) => Some("it says the time of directories, and there are none".to_owned()),
            _ => None,
        }) {
            return Err(Misplaced { at: MisplacedAt::TimeField, problem });
        }
        if fields.len() > FIELDS_MAX {
            let problem = format!("{} fields, and {FIELDS_MAX} at most become directories", fields.len());
            return Err(Misplaced { at: MisplacedAt::Whole, problem });
        }
        for (at, field) in fields.iter().enumerate() {
            if let Some(problem) = no_directory(field, &fields[..at]) {
                return Err(Misplaced { at: MisplacedAt::Field(at), problem });
            }
        }
        let least: usize = fields.iter().map(|field| prefix(field).len() + UNKNOWN.len() + 1).sum();
        if least > FIELDS_BYTES_MAX {
            let problem = format!(
                "their names are too long: directories of fields have {FIELDS_BYTES_MAX} bytes together"
            );
            return Err(Misplaced { at: MisplacedAt::Whole, problem });
        }
        if time_field.is_none() && fields.is_empty() {
            return Ok(time);
        }
        let word = word(time, time_field, fields);
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layout) = known.get(&*word) {
            return Ok(Self::Fields(layout));
        }
        if known.len() >= KNOWN_MAX {
            let problem = format!("more than {KNOWN_MAX} layouts were met");
            return Err(Misplaced { at: MisplacedAt::Whole, problem });
        }
        let layout: &'static FieldLayout = Box::leak(Box::new(FieldLayout {
            word,
            time,
            time_field: time_field.map(str::to_owned),
            fields: fields.iter().map(|&field| field.to_owned()).collect(),
        }));
        known.insert(&layout.word, layout);
        Ok(Self::Fields(layout))
    }

    /// The word that it is kept under.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Flat => "none",
            Self::Fields(layout) => &layout.word,
        }
    }

    /// What the directories of time are.
    pub(crate) fn time(self) -> Self {
        match self {
            Self::Fields(layout) => layout.time,
            other => other,
        }
    }

    /// Whether it goes by fields of the value.
    pub(crate) fn is_by_fields(self) -> bool {
        matches!(self, Self::Fields(_))
    }

    /// The field that says a row's time, if it is not its record.
    pub(crate) fn time_field(self) -> Option<&'static str> {
        match self {
            Self::Fields(layout) => layout.time_field.as_deref(),
            _ => None,
        }
    }

    /// The fields that become directories.
    pub(crate) fn fields(self) -> &'static [String] {
        match self {
            Self::Fields(layout) => &layout.fields,
            _ => &[],
        }
    }

    /// The columns that readers of Hive's layout make of the names of directories of time.
    pub(crate) fn columns(self) -> &'static [&'static str] {
        &OF_TIME[..self.time_depth()]
    }

    fn time_depth(self) -> usize {
        match self.time() {
            Self::Hour => 2,
            Self::Day => 1,
            _ => 0,
        }
    }

    /// The layout by records' timestamps of so many directories.
    pub(crate) fn of_depth(depth: usize) -> Option<Self> {
        [Self::Hour, Self::Day, Self::Flat].into_iter().find(|layout| layout.time_depth() == depth)
    }

    /// Whether a directory is called as one of this layout is.
    pub(crate) fn is_of(self, directory: &Path) -> bool {
        let of_time = self.columns().iter().map(|name| format!("{name}="));
        let prefixes: Vec<_> = of_time.chain(self.fields().iter().map(|field| prefix(field))).collect();
        let parts: Vec<_> = directory.iter().collect();
        let mut pairs = parts.iter().zip(&prefixes);
        parts.len() == prefixes.len()
            && pairs.all(|(part, prefix)| part.to_str().is_some_and(|part| part.starts_with(&**prefix)))
    }

    /// The directory of a record's time within its table. A record without a timestamp has a directory too.
    pub fn directory(self, timestamp: Millis) -> String {
        self.time_directory(known(timestamp))
    }

    /// The directory of a time.
    pub(crate) fn time_directory(self, time: Option<Timestamp>) -> String {
        let time = time.map(|time| tz::Offset::UTC.to_datetime(time));
        match (self.time(), time) {
            (Self::Day, Some(time)) => format!("dt={}", time.date()),
            (Self::Day, None) => format!("dt={UNKNOWN}"),
            (Self::Hour, Some(time)) => format!("dt={}/hour={:02}", time.date(), time.hour()),
            (Self::Hour, None) => format!("dt={UNKNOWN}/hour={UNKNOWN}"),
            (_, _) => String::new(),
        }
    }

    /// Which time a directory has the records of; none for a directory without a time, and for no directory of a layout's.
    pub(crate) fn time_of(directory: &Path) -> Option<Time> {
        let mut parts = directory.iter().map(|part| part.to_str());
        let text = parts.next()??.strip_prefix("dt=")?;
        // Another spelling of the same time is not a name that was given here.
        let date = text.parse::<Date>().ok().filter(|date| date.to_string() == text)?;
        let begin = tz::Offset::UTC.to_timestamp(date.at(0, 0, 0, 0)).ok()?.as_millisecond();
        let mut time = Time { depth: 1, begin: Millis(begin), end: Millis(begin + DAY_MS) };
        for (at, part) in parts.enumerate() {
            let (name, value) = part?.split_once('=')?;
            if (at, name) == (0, OF_TIME[1]) {
                let hour =
                    value.parse::<u8>().ok().filter(|hour| *hour < 24 && format!("{hour:02}") == value)?;
                let begin = begin + i64::from(hour) * HOUR_MS;
                time = Time { depth: 2, begin: Millis(begin), end: Millis(begin + HOUR_MS) };
            } else if is_of_time(name) || name.is_empty() || !is_escaped(name) || !is_escaped(value) {
                return None;
            }
        }
        Some(time)
    }

    /// Where the time ends that a directory has the records of.
    pub(crate) fn end(directory: &Path) -> Option<Millis> {
        Self::time_of(directory).map(|time| time.end)
    }

    /// Where the time ends that the directory of such a time is of.
    pub(crate) fn end_of(self, time: Millis) -> Option<Millis> {
        let span = match self.time() {
            Self::Hour => HOUR_MS,
            Self::Day => DAY_MS,
            _ => return None,
        };
        Some(Millis((time.0.div_euclid(span) + 1).saturating_mul(span)))
    }

    /// A number that is the same for records of one directory of time, cheaper to have than its name.
    pub(crate) fn bucket(self, timestamp: Millis) -> i64 {
        match (self.time(), known(timestamp)) {
            // One directory has them all, so one file does.
            (Self::Hour | Self::Day, None) => -1,
            (Self::Day, Some(_)) => timestamp.0 / DAY_MS,
            (Self::Hour, Some(_)) => timestamp.0 / HOUR_MS,
            (_, _) => 0,
        }
    }
}

/// Those that were met, by their words.
static KNOWN: Mutex<BTreeMap<&'static str, &'static FieldLayout>> = Mutex::new(BTreeMap::new());

/// A record's timestamp, if it is one and has a date.
pub(crate) fn known(timestamp: Millis) -> Option<Timestamp> {
    let time = Some(timestamp.0).filter(|&time| time >= 0)?;
    Timestamp::from_millisecond(time).ok()
}

/// The time that a field says in microseconds, if it has a date that all readers have.
pub(crate) fn of_field(micros: i64) -> Option<Timestamp> {
    let time = Timestamp::from_microsecond(micros).ok()?;
    has_year(tz::Offset::UTC.to_datetime(time).date()).then_some(time)
}

/// Whether its year has four digits.
pub(crate) fn has_year(date: Date) -> bool {
    date.year() >= 1
}

fn is_of_time(name: &str) -> bool {
    OF_TIME.iter().any(|other| other.eq_ignore_ascii_case(name))
}

/// Why no directory is called after a field, if so.
fn no_directory(field: &str, before: &[&str]) -> Option<String> {
    if field.is_empty() {
        return Some("it is empty".to_owned());
    }
    if field.starts_with(['_', '.']) {
        return Some(format!(
            "{field:?}: readers of tables pass over directories whose names begin with _ or a point"
        ));
    }
    if is_of_time(field) {
        return Some(format!("{field:?}: directories of time are called so"));
    }
    // As columns are told apart.
    if before.iter().any(|other| other.eq_ignore_ascii_case(field)) {
        return Some(format!("{field:?} is there twice"));
    }
    let least = prefix(field).len() + UNKNOWN.len();
    (least > NAME_BYTES_MAX).then(|| {
        format!(
            "{field:?}: its directories' names would have {least} bytes, and {NAME_BYTES_MAX} are allowed"
        )
    })
}

/// What the names of a field's directories begin with.
pub(crate) fn prefix(field: &str) -> String {
    let mut prefix = String::new();
    escape(field, &mut prefix);
    prefix.push('=');
    prefix
}

/// Whether Hive escapes a character in the names of directories (`FileUtils.escapePathName`), or no name has it.
fn is_special(c: char) -> bool {
    c.is_ascii_control() || "\"#%'*/:=?\\{[]^".contains(c)
}

/// A text as it is within a directory's name.
pub(crate) fn escape(text: &str, name: &mut String) {
    for c in text.chars() {
        match is_special(c) {
            true => write!(name, "%{:02X}", u32::from(c)).expect("a text takes it"),
            false => name.push(c),
        }
    }
}

/// Whether [`escape`] gives such a text.
fn is_escaped(name: &str) -> bool {
    let mut parts = name.split('%');
    let is_plain = |text: &str| !text.contains(is_special);
    let is_code = |text: &str| {
        let code = text.get(..2).filter(|code| code.chars().all(|c| matches!(c, '0'..='9' | 'A'..='F')));
        code.and_then(|code| u8::from_str_radix(code, 16).ok()).is_some_and(|code| is_special(code.into()))
    };
    parts.next().is_some_and(is_plain) && parts.all(|text| is_code(text) && is_plain(&text[2..]))
}

/// What a layout by fields is kept under: letters, digits and a few others, whatever the fields are called.
fn word(time: Layout, time_field: Option<&str>, fields: &[&str]) -> String {
    let encoded = |field: &str| {
        let mut text = String::new();
        for byte in field.bytes() {
            match byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.') {
                true => text.push(byte.into()),
                false => write!(text, "%{byte:02X}").expect("a text takes it"),
            }
        }
        text
    };
    let mut word = time.name().to_owned();
    if let Some(field) = time_field {
        word += &format!(";time={}", encoded(field));
    }
    if !fields.is_empty() {
        let fields: Vec<_> = fields.iter().map(|field| encoded(field)).collect();
        word += &format!(";fields={}", fields.join(","));
    }
    word
}

/// A field's name from within a word.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut left = text.as_bytes();
    while let [byte, rest @ ..] = left {
        left = match (byte, rest) {
            (b'%', [high, low, rest @ ..]) => {
                let code = [*high, *low];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&code).ok()?, 16).ok()?);
                rest
            }
            (b'%', _) => return None,
            _ => {
                bytes.push(*byte);
                rest
            }
        };
    }
    String::from_utf8(bytes).ok()
}

impl FromStr for Layout {
    type Err = String;

    /// By the word that it is kept under.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(';');
        let time = Self::named(parts.next().unwrap_or_default())?;
        let (mut time_field, mut fields) = (None, Vec::new());
        let unknown = || format!("{text:?} is no layout");
        for part in parts {
            match part.split_once('=').ok_or_else(unknown)? {
                ("time", field) => time_field = Some(decoded(field).ok_or_else(unknown)?),
                ("fields", list) => {
                    fields = list.split(',').map(decoded).collect::<Option<_>>().ok_or_else(unknown)?;
                }
                _ => return Err(unknown()),
            }
        }
        let fields: Vec<_> = fields.iter().map(String::as_str).collect();
        let layout = time.by(time_field.as_deref(), &fields);
        let layout =
            layout.map_err(|Misplaced { problem, .. }| format!("{text:?} is no layout: {problem}"))?;
        // Another spelling of the same is not a word that was given here.
        if layout.name() == text { Ok(layout) } else { Err(unknown()) }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use wire::Millis;

    use super::{Layout, Time, escape, is_escaped, of_field};

    #[test]
    fn a_record_without_a_time_has_a_directory_too() {
        let at = Millis(1_700_000_000_000);
        assert_eq!(Layout::Hour.directory(at), "dt=2023-11-14/hour=22");
        assert_eq!(Layout::Day.directory(at), "dt=2023-11-14");
        assert_eq!(Layout::Flat.directory(at), "");
        let unknown = "dt=__HIVE_DEFAULT_PARTITION__/hour=__HIVE_DEFAULT_PARTITION__";
        assert_eq!(Layout::Hour.directory(Millis(-1)), unknown);
        assert_eq!(Layout::Hour.directory(Millis(i64::MAX)), unknown);
    }

    #[test]
    fn a_directory_says_when_its_time_is_over() {
        let end = |directory: &str| Layout::end(Path::new(directory)).map(|end| end.0);
        assert_eq!(end("dt=2023-11-14/hour=22"), Some(1_700_002_800_000));
        assert_eq!(end("dt=2023-11-14"), Some(1_700_006_400_000));
        assert_eq!(end("dt=1969-12-31/hour=23"), Some(0));
        for other in [
            "",
            "dt=2023-11-14/hour=24",
            "dt=2023-11-14/hour=2",
            "dt=2023-11-14/hour=22/x",
            "dt=2023-11-14/hour=22/hour=21",
            "dt=2023-11-14/HOUR=22",
            "dt=2023-11-14/=x",
            "dt=2023-11-14/city=a%2Cb",
            "dt=2023-02-30",
            "hour=22",
            "city=x/dt=2023-11-14",
        ] {
            assert_eq!(end(other), None, "{other}");
        }
        let unknown = Layout::Hour.directory(Millis(-1));
        assert_eq!(end(&unknown), None);
    }

    #[test]
    fn a_time_ends_with_its_directory() {
        for layout in [Layout::Hour, Layout::Day] {
            for time in [0, 1_700_000_000_000, 1_700_002_799_999, 1_700_002_800_000] {
                let end = Layout::end(Path::new(&layout.directory(Millis(time))));
                assert_eq!(layout.end_of(Millis(time)), end);
            }
        }
        assert_eq!(Layout::Hour.end_of(Millis(-1)), Some(Millis(0)));
        assert_eq!(Layout::Flat.end_of(Millis(0)), None);
    }

    #[test]
    fn directories_of_fields_are_of_the_time_above_them() {
        let time = |directory: &str| Layout::time_of(Path::new(directory));
        let (begin, end) = (Millis(1_699_999_200_000), Millis(1_700_002_800_000));
        let hour = Some(Time { depth: 2, begin, end });
        assert_eq!(time("dt=2023-11-14/hour=22"), hour);
        assert_eq!(time("dt=2023-11-14/hour=22/city=x/shop=7"), hour);
        assert_eq!(time("dt=2023-11-14/hour=22/city=__HIVE_DEFAULT_PARTITION__"), hour);
        let begin = Millis(1_699_920_000_000);
        let day = Some(Time { depth: 1, begin, end: Millis(begin.0 + 24 * 3_600_000) });
        assert_eq!(time("dt=2023-11-14/city=a%2Fb, c"), day);
    }

    #[test]
    fn records_of_one_directory_are_in_one_file() {
        const HOUR: i64 = 3_600_000;
        // The last hour with a date, and microseconds where milliseconds were meant.
        let end = 253_402_207_200_000;
        let micros = 1_700_000_000_000_000;
        let times = [
            i64::MIN,
            -HOUR,
            -1,
            0,
            HOUR - 1,
            HOUR,
            end - HOUR,
            end - 1,
            end,
            end + HOUR,
            micros,
            micros + HOUR,
            i64::MAX,
        ];
        for layout in [Layout::Hour, Layout::Day, Layout::Flat] {
            for (a, b) in times.iter().flat_map(|&a| times.map(|b| (Millis(a), Millis(b)))) {
                let is_one_file = layout.bucket(a) == layout.bucket(b);
                assert_eq!(
                    is_one_file,
                    layout.directory(a) == layout.directory(b),
                    "{layout:?}: {a:?} and {b:?}"
                );
            }
        }
    }

    #[test]
    fn what_is_special_to_readers_is_escaped_and_nothing_is_a_path() {
        let escaped = |text: &str| {
            let mut name = String::new();
            escape(text, &mut name);
            assert!(is_escaped(&name), "{name}");
            name
        };
        assert_eq!(escaped("../a b,ü~|<>}"), "..%2Fa b,ü~|<>}");
        assert_eq!(
            escaped("\"#%'*/:=?\\{[]^\0\n\u{7f}"),
            "%22%23%25%27%2A%2F%3A%3D%3F%5C%7B%5B%5D%5E%00%0A%7F"
        );
        for other in ["a/b", "a%", "a%2", "a%2f", "a%2C", "%+2", "a%é"] {
            assert!(!is_escaped(other), "{other}");
        }
    }

    #[test]
    fn a_layout_is_known_by_its_word() {
        let layout = Layout::Day.by(Some("at"), &["city", "a,b;c=d é"]).unwrap();
        assert_eq!(layout.name(), "day;time=at;fields=city,a%2Cb%3Bc%3Dd%20%C3%A9");
        for layout in [
            layout,
            Layout::Hour,
            Layout::Flat,
            Layout::Hour.by(Some("at"), &[]).unwrap(),
            Layout::Flat.by(None, &["city"]).unwrap(),
        ] {
            assert_eq!(layout.name().parse(), Ok(layout));
        }
        assert_eq!(Layout::Day.by(None, &[]), Ok(Layout::Day));
        for other in [
            "",
            "week",
            "hour;",
            "hour;time=",
            "hour;fields=",
            "none;time=at",
            "hour;fields=a;time=b",
            "hour;fields=a,A",
            "hour;fields=%61",
            "hour;fields=a%2",
            "hour;fields=_a",
            "hour;fields=a,b,c,d,e,f,g,h,i",
        ] {
            assert!(other.parse::<Layout>().is_err(), "{other}");
        }
    }

    #[test]
    fn a_directory_is_of_the_layout_that_calls_its_directories_so() {
        let layout = Layout::Hour.by(None, &["city", "a=b"]).unwrap();
        let is_of = |layout: Layout, directory: &str| layout.is_of(Path::new(directory));
        assert!(is_of(layout, "dt=2023-11-14/hour=22/city=x/a%3Db=1"));
        for other in [
            "dt=2023-11-14/hour=22/city=x",
            "dt=2023-11-14/hour=22/a%3Db=1/city=x",
            "city=x/a%3Db=1",
            "dt=2023-11-14/hour=22/city=x/a%3Db=1/b=2",
        ] {
            assert!(!is_of(layout, other), "{other}");
        }
        assert!(is_of(Layout::Flat, "") && !is_of(Layout::Flat, "city=x"));
        assert!(is_of(Layout::Day, "dt=2023-11-14") && !is_of(Layout::Hour, "dt=2023-11-14"));
    }

    #[test]
    fn a_field_says_a_time_before_1970_as_well() {
        let directory = |micros| Layout::Hour.time_directory(of_field(micros));
        assert_eq!(directory(-1), "dt=1969-12-31/hour=23");
        assert_eq!(directory(1_700_000_000_000_000), "dt=2023-11-14/hour=22");
        for far in [i64::MIN, i64::MAX, -62_135_596_800_000_001] {
            assert_eq!(directory(far), "dt=__HIVE_DEFAULT_PARTITION__/hour=__HIVE_DEFAULT_PARTITION__");
        }
    }
}
