//! `sink.toml`: what is moved, where to, and how.
//!
//! Read strictly: a key that is not known, a value that is not allowed and a key that is missing are refused with their line and
//! column, and with what is allowed. Sizes and times are written with their units.

use std::fmt;
use std::ops::Range as Span;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use client::{Options, Start};
use jiff::SignedDuration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use wire::Str;

use crate::bucket;
use crate::columns::{Extra, Format, Shape};
use crate::key::LineName;
use crate::layout::{Layout, Misplaced, MisplacedAt, PREFIX_BYTES_MAX};
use crate::partition::LineSettings;
use crate::placement::Placement;
use crate::plan::Limits;
use crate::positions::Positions;
use crate::run::RunError;
use crate::s3::S3Settings;
use crate::stream_settings::{self, StreamSettings};
use crate::value_settings::value_format;

/// A declaration of a sink.
#[derive(Clone)]
pub struct Settings {
    /// Under which name it keeps positions.
    pub name: LineName,
    /// What is read.
    pub topics: Vec<Str>,
    /// Where to begin in a partition that was never read under this name.
    pub start: Start,
    /// How many bytes may be read in a second, by all lines of an instance together.
    pub throttle: Option<u64>,
    /// Settings of the client, under Kafka's names.
    pub client: Vec<(String, String)>,
    /// Where records go that cannot be converted; they stop the sink if there is no such place.
    pub dead_letters: Option<DeadLetterSettings>,
    /// The line into a table.
    pub offline: Option<TableSettings>,
    /// The near-real-time line.
    pub nearline: Option<NearlineOutput>,
}

/// One of the lines over the same topics, each with positions of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Line {
    /// Into a table.
    Offline,
    /// Near real time, into what is declared.
    Nearline,
}

impl Line {
    /// Its name, as in the declaration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Nearline => "nearline",
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What the near-real-time line writes into.
#[derive(Clone)]
pub enum NearlineOutput {
    /// A topic.
    Topic(NearlineSettings),
    /// A table of small files.
    Table(Box<TableSettings>),
    /// Streams of a Redis.
    Stream(StreamSettings),
}

/// The near-real-time line into a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NearlineSettings {
    /// The output.
    pub topic: Str,
    /// How long after its first record a transaction is committed.
    pub flush_age: Duration,
    /// Records in a transaction.
    pub flush_rows: u64,
    /// What to do without a position where the output's own retention may have removed what the line wrote.
    pub if_removed: IfRemoved,
}

/// What a line does that has no position in a partition, while the output has lost its beginning: it may have been there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfRemoved {
    /// It is refused.
    Stop,
    /// It begins.
    Begin,
}

impl FromStr for IfRemoved {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stop" => Ok(Self::Stop),
            "begin" => Ok(Self::Begin),
            _ => Err(format!("{text:?} is none of stop, begin")),
        }
    }
}

/// The dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterSettings {
    /// Their topic.
    pub topic: Str,
}

/// A line into a table.
#[derive(Clone)]
pub struct TableSettings {
    /// The table's directory, or its address in an object store.
    pub table: PathBuf,
    /// The store, if it is one.
    pub s3: Option<S3Settings>,
    /// Where positions are kept.
    pub positions: Positions,
    /// What is done with every partition.
    pub line: LineSettings,
    /// What is in hand of all partitions together, before the largest is written out.
    pub memory_max: usize,
    /// How long after the end of a directory's time it is marked as complete, if it is.
    pub success_ms: Option<i64>,
}

impl Settings {
    /// Under which name a line keeps its positions.
    pub fn line_name(&self, line: Line) -> LineName {
        format!("{}.{line}", self.name).parse().expect("the name leaves room for it")
    }

    /// The lines that are declared.
    pub fn lines(&self) -> Vec<Line> {
        let offline = self.offline.is_some().then_some(Line::Offline);
        offline.into_iter().chain(self.nearline.is_some().then_some(Line::Nearline)).collect()
    }

    /// The same with this line alone; nothing if it is not declared.
    pub fn only(&self, line: Line) -> Option<Self> {
        let mut only = self.clone();
        match line {
            Line::Offline => only.nearline = None,
            Line::Nearline => only.offline = None,
        }
        (!only.lines().is_empty()).then_some(only)
    }

    /// The table of a line, if that is its output.
    pub fn table(&self, line: Line) -> Option<&TableSettings> {
        match (line, &self.nearline) {
            (Line::Offline, _) => self.offline.as_ref(),
            (Line::Nearline, Some(NearlineOutput::Table(table))) => Some(table),
            (Line::Nearline, _) => None,
        }
    }

    /// The lines that have a table, each with its own.
    pub fn tables(&self) -> Vec<(Line, &TableSettings)> {
        let lines = self.lines().into_iter();
        lines.filter_map(|line| Some((line, self.table(line)?))).collect()
    }

    /// The same, for those who have nothing to do without one.
    pub(crate) fn tables_there(&self) -> Result<Vec<(Line, &TableSettings)>, RunError> {
        match self.tables() {
            tables if tables.is_empty() => Err(RunError::NoTable),
            tables => Ok(tables),
        }
    }

    /// The group that keeps up to where a line has sent dead letters.
    pub fn dead_letters_group(&self, line: Line) -> String {
        match line {
            Line::Offline => format!("{}.dead-letters", self.name),
            Line::Nearline => format!("{}.nearline-dead-letters", self.name),
        }
    }

    /// The group that keeps up to where a line's dead letters were sent back.
    pub(crate) fn replay_group(&self, line: Line) -> String {
        match line {
            Line::Offline => format!("{}.dlq-replay", self.name),
            Line::Nearline => format!("{}.nearline-dlq-replay", self.name),
        }
    }
}

/// A declaration that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}", place(.at))]
pub struct SettingsError {
    /// Line and column, from 1.
    pub at: Option<(usize, usize)>,
    /// What is wrong, and what is allowed.
    pub problem: String,
}

fn place(at: &Option<(usize, usize)>) -> String {
    at.map_or_else(String::new, |(line, column)| format!("line {line}, column {column}: "))
}

/// What is wrong where in the text.
pub(crate) struct Problem {
    span: Option<Span<usize>>,
    what: String,
}

impl Problem {
    pub(crate) fn new(span: Span<usize>, what: impl Into<String>) -> Self {
        Self { span: Some(span), what: what.into() }
    }
}

impl Settings {
    /// Reads a declaration.
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        let document = DeTable::parse(text).map_err(|error| SettingsError {
            at: error.span().map(|span| line_and_column(text, span.start)),
            problem: error.message().to_owned(),
        })?;
        settings(&document).map_err(|problem| SettingsError {
            at: problem.span.map(|span| line_and_column(text, span.start)),
            problem: problem.what,
        })
    }

    /// The client's settings: `options`, and what is declared on top of them.
    pub fn client_options(&self, mut options: Options) -> Result<Options, client::Error> {
        for (key, value) in &self.client {
            options.set(key, value)?;
        }
        Ok(options)
    }
}

fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

pub(crate) type Value<'a> = Spanned<DeValue<'a>>;

/// A table of the text, and the keys that were looked at.
pub(crate) struct Section<'a> {
    /// What its keys are told with before them, as `offline.`; nothing at the top.
    name: String,
    pub(crate) span: Span<usize>,
    table: &'a DeTable<'a>,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    pub(crate) fn new(name: &str, span: Span<usize>, table: &'a DeTable<'a>) -> Self {
        Self { name: name.to_owned(), span, table, known: Vec::new() }
    }

    pub(crate) fn get(&mut self, key: &'static str) -> Option<&'a Value<'a>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.table.get(key)
    }

    pub(crate) fn required(&mut self, key: &'static str, example: &str) -> Result<&'a Value<'a>, Problem> {
        let (name, span) = (self.name.clone(), self.span.clone());
        let missing = || Problem::new(span, format!("{name}{key} is missing, as in {key} = {example}"));
        self.get(key).ok_or_else(missing)
    }

    /// A value by its text, or the default.
    pub(crate) fn parsed<T>(
        &mut self,
        key: &'static str,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, Problem> {
        let Some(value) = self.get(key) else { return Ok(default) };
        parse(text(key, value)?).map_err(|problem| Problem::new(value.span(), format!("{key}: {problem}")))
    }

    pub(crate) fn number(&mut self, key: &'static str, default: u64) -> Result<u64, Problem> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let number = match value.get_ref() {
            DeValue::Integer(number) => {
                u64::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok()
            }
            _ => None,
        };
        number
            .filter(|&number| number > 0)
            .ok_or_else(|| Problem::new(value.span(), format!("{key} takes a whole number of at least 1")))
    }

    fn truth(&mut self, key: &'static str, default: bool) -> Result<bool, Problem> {
        let Some(value) = self.get(key) else { return Ok(default) };
        match value.get_ref() {
            DeValue::Boolean(is) => Ok(*is),
            _ => Err(Problem::new(value.span(), format!("{key} takes true or false"))),
        }
    }

    fn section(&mut self, key: &'static str) -> Result<Option<Section<'a>>, Problem> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.get_ref() {
            DeValue::Table(table) => {
                Ok(Some(Section::new(&format!("{}{key}.", self.name), value.span(), table)))
            }
            _ => {
                let name = format!("{}{key}", self.name);
                Err(Problem::new(value.span(), format!("{name} is a table of its own: [{name}]")))
            }
        }
    }

    /// Refuses what was not looked at.
    pub(crate) fn end(self) -> Result<(), Problem> {
        for (key, _) in self.table.iter() {
            if !self.known.contains(&key.get_ref().as_ref()) {
                let what = format!(
                    "{}{} is not known here; {} are",
                    self.name,
                    key.get_ref(),
                    self.known.join(", ")
                );
                return Err(Problem::new(key.span(), what));
            }
        }
        Ok(())
    }
}

pub(crate) fn text<'a>(key: &str, value: &'a Value<'a>) -> Result<&'a str, Problem> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text),
        _ => Err(Problem::new(value.span(), format!("{key} takes a text in quotes"))),
    }
}

pub(crate) fn list<'a>(key: &str, value: &'a Value<'a>) -> Result<&'a [Value<'a>], Problem> {
    match value.get_ref() {
        DeValue::Array(items) => Ok(items),
        _ => Err(Problem::new(value.span(), format!("{key} takes a list, as in {key} = [\"a\", \"b\"]"))),
    }
}

fn settings(document: &Spanned<DeTable<'_>>) -> Result<Settings, Problem> {
    // What is missing at the top has no place in the text.
    let mut top = Section::new("", 0..0, document.get_ref());
    let value = top.required("name", "\"orders\"")?;
    let name: LineName = text("name", value)?
        .parse()
        .map_err(|problem| Problem::new(value.span(), format!("name: {problem}")))?;
    const NAME_LEN_MAX: usize = 200;
    if name.as_str().len() > NAME_LEN_MAX {
        return Err(Problem::new(value.span(), format!("name has at most {NAME_LEN_MAX} characters")));
    }
    let value = top.required("topics", "[\"orders\"]")?;
    let mut topics = Vec::new();
    for item in list("topics", value)? {
        let topic = Str::copy_from(text("topics", item)?);
        if topics.contains(&topic) {
            return Err(Problem::new(item.span(), format!("topic {topic} comes twice")));
        }
        if topic.starts_with(['_', '.']) {
            let problem = format!(
                "topic {topic}: readers of tables pass over files whose names begin with _ or a point"
            );
            return Err(Problem::new(item.span(), problem));
        }
        // A file's name has 255 bytes, and says a partition and two offsets besides.
        const TOPIC_LEN_MAX: usize = 190;
        if topic.len() > TOPIC_LEN_MAX {
            let problem = format!(
                "topic {topic}: files are named after it, which goes up to {TOPIC_LEN_MAX} characters"
            );
            return Err(Problem::new(item.span(), problem));
        }
        topics.push(topic);
    }
    if topics.is_empty() {
        return Err(Problem::new(value.span(), "topics names no topic"));
    }
    let start = top.parsed("start", Start::Earliest, |text| match text {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        _ => Err(format!("{text:?} is none of earliest, latest")),
    })?;
    let throttle = top.parsed("throttle", None, |text| size(text).map(Some))?;
    let client = client_settings(&mut top)?;
    let format = match top.section("value")? {
        Some(section) => value_format(section, &topics)?,
        None => Format::Bytes,
    };
    let dead_letters = match top.section("dead_letters")? {
        Some(section) => Some((section.span.clone(), dead_letters(section, &topics)?)),
        None => None,
    };
    let offline = match top.section("offline")? {
        Some(section) => Some(table(section, format.clone(), OFFLINE_AGE_MS)?),
        None => None,
    };
    let nearline = match top.section("nearline")? {
        Some(section) => Some(nearline(section, &topics, format, offline.as_ref())?),
        None => None,
    };
    if offline.is_none() && nearline.is_none() {
        let what = "there is no line: [offline] with table = \"DIRECTORY\" is one, and [nearline] with topic = \"TOPIC\" is another";
        return Err(Problem { span: None, what: what.to_owned() });
    }
    top.end()?;
    let (span, dead_letters) = dead_letters.unzip();
    let settings = Settings { name, topics, start, throttle, client, dead_letters, offline, nearline };
    match span.filter(|_| settings.tables().is_empty()) {
        Some(span) => {
            let what =
                "dead letters are what is no row of a table: without a line that has one there are none";
            Err(Problem::new(span, what))
        }
        None => Ok(settings),
    }
}

fn client_settings(top: &mut Section<'_>) -> Result<Vec<(String, String)>, Problem> {
    let mut settings = Vec::new();
    if let Some(section) = top.section("client")? {
        flatten("", section.table, &mut Options::default(), &mut settings)?;
    }
    Ok(settings)
}

/// Kafka's names have dots, which make tables within tables here.
fn flatten(
    above: &str,
    table: &DeTable<'_>,
    options: &mut Options,
    settings: &mut Vec<(String, String)>,
) -> Result<(), Problem> {
    for (key, value) in table.iter() {
        let name = format!("{above}{}", key.get_ref());
        let text = match value.get_ref() {
            DeValue::Table(table) => {
                flatten(&format!("{name}."), table, options, settings)?;
                continue;
            }
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) => number.as_str().to_owned(),
            DeValue::Boolean(is) => is.to_string(),
            _ => return Err(Problem::new(value.span(), format!("{name} takes a text or a number"))),
        };
        options.set(&name, &text).map_err(|error| Problem::new(value.span(), error.to_string()))?;
        settings.push((name, text));
    }
    Ok(())
}

fn dead_letters(mut section: Section<'_>, topics: &[Str]) -> Result<DeadLetterSettings, Problem> {
    let value = section.required("topic", "\"orders.dead\"")?;
    let topic = Str::copy_from(text("topic", value)?);
    if topics.contains(&topic) {
        let problem = format!("topic: {topic} is read, and its dead letters would be read as well");
        return Err(Problem::new(value.span(), problem));
    }
    section.end()?;
    Ok(DeadLetterSettings { topic })
}

/// What a file of a table in an object store may have: it goes through memory, and a put has 5 GiB at most.
const PUT_BYTES_MAX: u64 = 1 << 30;

/// Where the table is.
fn address(section: &mut Section<'_>) -> Result<(PathBuf, Option<S3Settings>), Problem> {
    let value = section.required("table", "\"/data/orders\"")?;
    let address = text("table", value)?;
    let settings = section.section("s3")?;
    if !address.starts_with(bucket::SCHEME) {
        if let Some((scheme, _)) = address.split_once("://") {
            let what = format!(
                "table: {scheme}:// is no store that is known here; a directory, or s3://BUCKET/PREFIX is a table"
            );
            return Err(Problem::new(value.span(), what));
        }
        return match settings {
            Some(settings) => {
                let what = format!(
                    "{} is about a table in an object store, and table is a directory; s3://BUCKET/PREFIX is one",
                    settings.name.trim_end_matches('.')
                );
                Err(Problem::new(settings.span, what))
            }
            None => Ok((PathBuf::from(address), None)),
        };
    }
    let (bucket, prefix) = bucket::parse_address(address)
        .map_err(|problem| Problem::new(value.span(), format!("table: {problem}")))?;
    let mut s3 = match settings {
        Some(settings) => s3(settings)?,
        None => S3Settings { is_path_style: true, ..S3Settings::default() },
    };
    if section.get("partition_fields").is_some() && prefix.len() > PREFIX_BYTES_MAX {
        let what = format!(
            "table: with partition_fields, keys of a store leave {PREFIX_BYTES_MAX} bytes for what they begin with, and it has {}",
            prefix.len()
        );
        return Err(Problem::new(value.span(), what));
    }
    let address = [bucket::SCHEME, &bucket, if prefix.is_empty() { "" } else { "/" }, &prefix].concat();
    s3.bucket = bucket;
    Ok((PathBuf::from(address), Some(s3)))
}

/// How an object store is asked.
fn s3(mut section: Section<'_>) -> Result<S3Settings, Problem> {
    let owned = |text: &str| match text {
        "" => Err("it is empty".to_owned()),
        text => Ok(Some(text.to_owned())),
    };
    let endpoint = section.parsed("endpoint", None, |text| {
        let is_address = ["http://", "https://"].into_iter().any(|scheme| {
            text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty() && !rest.contains(['@', '?', '#']))
        });
        match is_address {
            true => Ok(Some(text.trim_end_matches('/').to_owned())),
            // A password may be in it.
            false => Err("it is no address of a store; https://HOST:PORT is one".to_owned()),
        }
    })?;
    let region = section.parsed("region", None, owned)?;
    let is_path_style = section.truth("path_style", true)?;
    let access_key_id = section.parsed("access_key_id", None, owned)?;
    let secret_access_key = section.parsed("secret_access_key", None, owned)?;
    let session_token = section.parsed("session_token", None, owned)?;
    let spool = section.parsed("spool", None, owned)?.map(PathBuf::from);
    let (span, name) = (section.span.clone(), section.name.clone());
    section.end()?;
    if access_key_id.is_some() != secret_access_key.is_some() {
        let what = format!(
            "{name}access_key_id and secret_access_key go together; without both of them the environment says who asks"
        );
        return Err(Problem::new(span, what));
    }
    if session_token.is_some() && access_key_id.is_none() {
        let what = format!("{name}session_token goes with access_key_id and secret_access_key");
        return Err(Problem::new(span, what));
    }
    let bucket = String::new();
    Ok(S3Settings {
        bucket,
        endpoint,
        region,
        is_path_style,
        access_key_id,
        secret_access_key,
        session_token,
        spool,
    })
}

/// How long after its first record a file is closed, in a line into a table that is read later, and in one that is read now.
const OFFLINE_AGE_MS: i64 = 600_000;
const NEARLINE_AGE_MS: i64 = 5_000;

fn table(mut section: Section<'_>, format: Format, age_ms_max: i64) -> Result<TableSettings, Problem> {
    let (table, s3) = address(&mut section)?;
    let positions = section.parsed("positions", Positions::Beside, str::parse)?;
    let time = section.parsed("partition_by", Layout::Hour, Layout::named)?;
    let time_field = section.get("time_field");
    let fields = section.get("partition_fields");
    let extras = match section.get("columns") {
        None => vec![Extra::Partition, Extra::Offset, Extra::Timestamp],
        Some(value) => {
            let mut extras = Vec::new();
            for item in list("columns", value)? {
                let name = text("columns", item)?;
                extras.push(Extra::named(name).ok_or_else(|| {
                    Problem::new(
                        item.span(),
                        format!("columns: {name:?} is none of {}", Extra::NAMES.join(", ")),
                    )
                })?);
            }
            extras
        }
    };
    let in_one_put = |text: &str| match size(text)? {
        bytes if s3.is_some() && bytes > PUT_BYTES_MAX => Err(format!(
            "{text:?} is too much for a table in an object store, where a file is put at once: 1GiB is allowed"
        )),
        bytes => Ok(bytes),
    };
    let limits = Limits {
        bytes_max: section.parsed("roll_bytes", 128 << 20, in_one_put)?,
        rows_max: section.number("roll_rows", 10_000_000)?,
        age_ms_max: section.parsed("roll_age", age_ms_max, millis)?,
        late_ms_max: section.parsed("roll_late", None, |text| match time {
            Layout::Flat => Err("it goes by directories of time, and there are none".to_owned()),
            _ => millis(text).map(Some),
        })?,
    };
    let memory_max = section.parsed("memory", 512 << 20, size)?;
    let files_max = section.number("open_files", 32)?;
    let success_ms = section.parsed("success", None, |text| millis(text).map(Some))?;
    let span = section.span.clone();
    section.end()?;
    let shape = Shape::new(format, extras);
    let shape =
        shape.map_err(|name| Problem::new(span.clone(), format!("there are two columns {name:?}")))?;
    let layout = layout(time, time_field, fields, &shape)?;
    if let Some(what) = doubled(layout, &shape) {
        return Err(Problem::new(span, what));
    }
    let files_max = usize::try_from(files_max).unwrap_or(usize::MAX);
    let memory_max = usize::try_from(memory_max).unwrap_or(usize::MAX);
    Ok(TableSettings {
        table,
        s3,
        positions,
        line: LineSettings { limits, layout, files_max, shape: Arc::new(shape) },
        memory_max,
        success_ms,
    })
}

/// How a table is laid out. Columns that a registry says are not known yet.
fn layout(
    time: Layout,
    time_field: Option<&Value<'_>>,
    fields: Option<&Value<'_>>,
    shape: &Shape,
) -> Result<Layout, Problem> {
    let listed = fields.map(|fields| list("partition_fields", fields)).transpose()?.unwrap_or_default();
    let misplaced = |Misplaced { at, problem }: Misplaced| {
        let (key, value) = match at {
            MisplacedAt::TimeField => ("time_field", time_field),
            MisplacedAt::Field(at) => ("partition_fields", listed.get(at)),
            MisplacedAt::Whole => match fields.filter(|_| !listed.is_empty()) {
                Some(fields) => ("partition_fields", Some(fields)),
                None => ("time_field", time_field),
            },
        };
        let span = value.map(Value::span).unwrap_or_default();
        Problem::new(span, format!("{key}: {problem}"))
    };
    let field = time_field.map(|field| text("time_field", field)).transpose()?;
    let names = listed.iter().map(|name| text("partition_fields", name)).collect::<Result<Vec<_>, _>>()?;
    let layout = time.by(field, &names).map_err(misplaced)?;
    if shape.is_known() {
        Placement::new(layout, shape).map_err(misplaced)?;
    }
    Ok(layout)
}

/// What is wrong with columns that directories of time make as well, if there are some.
pub(crate) fn doubled(layout: Layout, shape: &Shape) -> Option<String> {
    let is_there =
        |name: &&&str| shape.schema().fields().iter().any(|field| field.name().eq_ignore_ascii_case(name));
    let (name, layout) = (layout.columns().iter().find(is_there)?, layout.time().name());
    Some(format!(
        "a column {name:?} would be there twice, as partition_by = {layout:?} makes one of the directories' names: another name for the field, or partition_by = \"none\""
    ))
}

fn nearline(
    section: Section<'_>,
    topics: &[Str],
    format: Format,
    offline: Option<&TableSettings>,
) -> Result<NearlineOutput, Problem> {
    const OUTPUTS: [(&str, &str); 3] = [
        ("topic", "\"orders.out\""),
        ("table", "\"/data/orders-now\""),
        ("stream", "\"redis://HOST:PORT/0\""),
    ];
    let declared = OUTPUTS.iter().filter_map(|(key, _)| Some((*key, section.table.get(*key)?)));
    let mut declared: Vec<_> = declared.collect();
    declared.sort_by_key(|(_, value)| value.span().start);
    match declared[..] {
        [] => {
            let outputs = OUTPUTS.map(|(key, example)| format!("{key} = {example}")).join(", ");
            let what =
                format!("{}topic is missing, or another output; one of {outputs} says it", section.name);
            Err(Problem::new(section.span, what))
        }
        [("table", value)] => {
            let table = table(section, format, NEARLINE_AGE_MS)?;
            match offline.filter(|offline| is_within(&offline.table, &table.table)) {
                Some(offline) => {
                    let (one, other) = (table.table.display(), offline.table.display());
                    let what = format!(
                        "table: {one} is in the table of [offline], {other}, or that one in it: each line wants a directory of its own"
                    );
                    Err(Problem::new(value.span(), what))
                }
                None => Ok(NearlineOutput::Table(Box::new(table))),
            }
        }
        [("stream", _)] => Ok(NearlineOutput::Stream(stream_settings::stream(section)?)),
        [_] => Ok(NearlineOutput::Topic(output_topic(section, topics)?)),
        [(one, _), (other, value), ..] => {
            let what = format!("there are {one} and {other}: a line has one output");
            Err(Problem::new(value.span(), what))
        }
    }
}

/// Whether two directories are the same, or one lies in the other, as far as their names tell.
fn is_within(one: &Path, other: &Path) -> bool {
    let plain =
        |path: &Path| path.components().filter(|part| *part != Component::CurDir).collect::<PathBuf>();
    let (one, other) = (plain(one), plain(other));
    one.starts_with(&other) || other.starts_with(&one)
}

fn output_topic(mut section: Section<'_>, topics: &[Str]) -> Result<NearlineSettings, Problem> {
    let value = section.required("topic", "\"orders.out\"")?;
    let topic = Str::copy_from(text("topic", value)?);
    if topic.is_empty() {
        return Err(Problem::new(value.span(), "topic is empty"));
    }
    if topics.contains(&topic) {
        let what = format!("topic: {topic} is read, and what is written there would be read again");
        return Err(Problem::new(value.span(), what));
    }
    let flush_age = section.parsed("flush_age", 500, millis)?;
    let flush_rows = section.number("flush_rows", 10_000)?;
    let if_removed = section.parsed("if_removed", IfRemoved::Stop, str::parse)?;
    section.end()?;
    let flush_age = Duration::from_millis(flush_age.unsigned_abs());
    Ok(NearlineSettings { topic, flush_age, flush_rows, if_removed })
}

/// Parses a size such as `64MiB`.
pub fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 5] =
        [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40), ("B", 1)];
    let of = |(unit, factor): &(&str, u64)| {
        text.strip_suffix(unit)?.trim_end().parse::<u64>().ok()?.checked_mul(*factor)
    };
    let size = UNITS.iter().find_map(of).filter(|&size| size > 0);
    size.ok_or_else(|| format!("{text:?} is no size; 64KiB, 128MiB and 1GiB are"))
}

/// Parses a time such as `10m`.
fn millis(text: &str) -> Result<i64, String> {
    let parsed = text.parse::<SignedDuration>().ok().filter(|time| time.as_millis() > 0);
    parsed
        .and_then(|time| i64::try_from(time.as_millis()).ok())
        .ok_or_else(|| format!("{text:?} is no time; 500ms, 30s, 10m and 1h30m are"))
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("name", &self.name)
            .field("topics", &self.topics)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::{Line, NearlineOutput, Settings};

    fn check(text: &str, expected: Expect) {
        expected.assert_eq(&match Settings::parse(text) {
            Ok(settings) => {
                let topics: Vec<_> = settings.topics.iter().map(|topic| topic.as_str()).collect();
                let tables = settings.tables().into_iter().map(|(line, table)| {
                    let fields = table.line.shape.schema();
                    let names: Vec<_> = fields.fields().iter().map(|field| field.name().as_str()).collect();
                    format!(
                        "{} of {topics:?} into {} by {}, {:?}, columns {}",
                        settings.line_name(line),
                        table.table.display(),
                        table.line.layout.name(),
                        table.line.limits,
                        names.join(" "),
                    )
                });
                let name = settings.line_name(Line::Nearline);
                let topic = match &settings.nearline {
                    Some(NearlineOutput::Topic(topic)) => Some(format!("{name} of {topics:?}: {topic:?}")),
                    _ => None,
                };
                tables.chain(topic).collect::<Vec<_>>().join("; ")
            }
            Err(problem) => problem.to_string(),
        });
    }

    const TOP: &str = "name = \"orders\"\ntopics = [\"orders\"]\n";

    fn check_behind_top(rest: &str, expected: Expect) {
        check(&format!("{TOP}{rest}"), expected);
    }

    #[test]
    fn a_declaration_says_what_goes_where() {
        check_behind_top(
            "[offline]\ntable = \"/data/orders\"\n",
            expect![[
                r#"orders.offline of ["orders"] into /data/orders by hour, Limits { rows_max: 10000000, bytes_max: 134217728, age_ms_max: 600000, late_ms_max: None }, columns value kafka_partition kafka_offset kafka_timestamp"#
            ]],
        );
        check_behind_top(
            "start = \"latest\"\n\
             [client]\n\"bootstrap.servers\" = \"a:1\"\n\"fetch.max.wait.ms\" = 50\n\
             [value]\nformat = \"json\"\nfields = [\n  { name = \"id\", type = \"int64\", required = true },\n  { name = \"at\", type = \"timestamp\" },\n]\n\
             [offline]\ntable = \"t\"\npartition_by = \"day\"\nroll_bytes = \"1MiB\"\nroll_rows = 1_000\nroll_age = \"30s\"\ncolumns = [\"key\", \"headers\"]\n",
            expect![[
                r#"orders.offline of ["orders"] into t by day, Limits { rows_max: 1000, bytes_max: 1048576, age_ms_max: 30000, late_ms_max: None }, columns id at kafka_key kafka_headers"#
            ]],
        );
    }

    #[test]
    fn a_table_may_be_in_an_object_store() {
        let offline = |rest: &str| {
            let declared = Settings::parse(&format!("{TOP}[offline]\n{rest}\n"));
            declared.map_err(|problem| problem.to_string()).map(|settings| settings.offline.unwrap())
        };
        let plain = offline("table = \"s3://shop/tables/orders/\"").unwrap();
        assert_eq!(plain.table.to_str(), Some("s3://shop/tables/orders"));
        let shown = format!("{:?}", plain.s3.unwrap());
        assert!(
            shown.contains("bucket: \"shop\", endpoint: None, region: None, is_path_style: true"),
            "{shown}"
        );
        let keys = "access_key_id = \"id\"\nsecret_access_key = \"hidden\"";
        let whole = format!(
            "table = \"s3://shop/orders\"\n[offline.s3]\nendpoint = \"https://host:9000/\"\nregion = \"eu-1\"\npath_style = false\n{keys}"
        );
        let s3 = offline(&whole).unwrap().s3.unwrap();
        assert_eq!((s3.endpoint.as_deref(), s3.is_path_style), (Some("https://host:9000"), false));
        assert_eq!(s3.secret_access_key.as_deref(), Some("hidden"));
        for (rest, expected) in [
            (
                "table = \"gs://shop/orders\"",
                "line 4, column 9: table: gs:// is no store that is known here; a directory, or s3://BUCKET/PREFIX is a table",
            ),
            (
                "table = \"s3://s\"",
                "line 4, column 9: table: \"s\" is no bucket: 3 to 63 letters, digits, '-', '_' and '.' are",
            ),
            (
                "table = \"t\"\ns3.region = \"eu-1\"",
                "line 5, column 1: offline.s3 is about a table in an object store, and table is a directory; s3://BUCKET/PREFIX is one",
            ),
            (
                "table = \"s3://shop/t\"\ns3 = \"eu-1\"",
                "line 5, column 6: offline.s3 is a table of its own: [offline.s3]",
            ),
            (
                "table = \"s3://shop/t\"\nroll_bytes = \"2GiB\"",
                "line 5, column 14: roll_bytes: \"2GiB\" is too much for a table in an object store, where a file is put at once: 1GiB is allowed",
            ),
            (
                "table = \"s3://shop/t\"\n[offline.s3]\nendpoint = \"http://id:hidden@host\"",
                "line 6, column 12: endpoint: it is no address of a store; https://HOST:PORT is one",
            ),
            (
                "table = \"s3://shop/t\"\n[offline.s3]\npath_style = \"no\"",
                "line 6, column 14: path_style takes true or false",
            ),
            (
                "table = \"s3://shop/t\"\n[offline.s3]\nsecret_access_key = \"hidden\"",
                "line 5, column 1: offline.s3.access_key_id and secret_access_key go together; without both of them the environment says who asks",
            ),
            (
                "table = \"s3://shop/t\"\n[offline.s3]\nkey = \"x\"",
                "line 6, column 1: offline.s3.key is not known here; endpoint, region, path_style, access_key_id, secret_access_key, session_token, spool are",
            ),
        ] {
            assert_eq!(offline(rest).map(|_| ()).unwrap_err(), expected);
        }
    }

    #[test]
    fn a_declaration_has_one_line_or_both() {
        check_behind_top(
            "[nearline]\ntopic = \"out\"\nflush_age = \"2s\"\n",
            expect![[
                r#"orders.nearline of ["orders"]: NearlineSettings { topic: "out", flush_age: 2s, flush_rows: 10000, if_removed: Stop }"#
            ]],
        );
        check_behind_top(
            "[offline]\ntable = \"t\"\n[nearline]\ntopic = \"out\"\nflush_rows = 7\n",
            expect![[
                r#"orders.offline of ["orders"] into t by hour, Limits { rows_max: 10000000, bytes_max: 134217728, age_ms_max: 600000, late_ms_max: None }, columns value kafka_partition kafka_offset kafka_timestamp; orders.nearline of ["orders"]: NearlineSettings { topic: "out", flush_age: 500ms, flush_rows: 7, if_removed: Stop }"#
            ]],
        );
        check_behind_top(
            "[nearline]\n",
            expect![[
                r#"line 3, column 1: nearline.topic is missing, or another output; one of topic = "orders.out", table = "/data/orders-now", stream = "redis://HOST:PORT/0" says it"#
            ]],
        );
        check_behind_top(
            "[nearline]\ntopic = \"orders\"\n",
            expect!["line 4, column 9: topic: orders is read, and what is written there would be read again"],
        );
        check_behind_top(
            "[nearline]\ntopic = \"out\"\nroll_age = \"1s\"\n",
            expect![
                "line 5, column 1: nearline.roll_age is not known here; topic, flush_age, flush_rows, if_removed are"
            ],
        );
        let text = format!("{TOP}[nearline]\ntopic = \"out\"\n");
        let settings = Settings::parse(&text).unwrap();
        assert!(settings.only(Line::Offline).is_none());
        assert_eq!(settings.only(Line::Nearline).unwrap().lines(), [Line::Nearline]);
    }

    #[test]
    fn the_near_real_time_line_has_one_output_and_a_table_is_no_other_lines() {
        check_behind_top(
            "[value]\nformat = \"text\"\n[offline]\ntable = \"t\"\n\
             [nearline]\ntable = \"now\"\npartition_by = \"none\"\ncolumns = [\"offset\"]\n",
            expect![[
                r#"orders.offline of ["orders"] into t by hour, Limits { rows_max: 10000000, bytes_max: 134217728, age_ms_max: 600000, late_ms_max: None }, columns value kafka_partition kafka_offset kafka_timestamp; orders.nearline of ["orders"] into now by none, Limits { rows_max: 10000000, bytes_max: 134217728, age_ms_max: 5000, late_ms_max: None }, columns value kafka_offset"#
            ]],
        );
        check_behind_top(
            "[dead_letters]\ntopic = \"dead\"\n[nearline]\ntable = \"now\"\nroll_age = \"2s\"\nroll_rows = 7\n",
            expect![[
                r#"orders.nearline of ["orders"] into now by hour, Limits { rows_max: 7, bytes_max: 134217728, age_ms_max: 2000, late_ms_max: None }, columns value kafka_partition kafka_offset kafka_timestamp"#
            ]],
        );
        check_behind_top(
            "[nearline]\ntopic = \"out\"\ntable = \"t\"\n",
            expect!["line 5, column 9: there are topic and table: a line has one output"],
        );
        check_behind_top(
            "[nearline]\ntable = \"t\"\ntopic = \"out\"\n",
            expect!["line 5, column 9: there are table and topic: a line has one output"],
        );
        check_behind_top(
            "[nearline]\ntable = \"t\"\nflush_age = \"1s\"\n",
            expect![
                "line 5, column 1: nearline.flush_age is not known here; table, s3, positions, partition_by, time_field, partition_fields, columns, roll_bytes, roll_rows, roll_age, roll_late, memory, open_files, success are"
            ],
        );
        for table in ["./data/t/", "data", "data/t/now"] {
            check_behind_top(
                &format!("[offline]\ntable = \"data/t\"\n[nearline]\ntable = {table:?}\n"),
                match table {
                    "./data/t/" => expect![
                        "line 6, column 9: table: ./data/t/ is in the table of [offline], data/t, or that one in it: each line wants a directory of its own"
                    ],
                    "data" => expect![
                        "line 6, column 9: table: data is in the table of [offline], data/t, or that one in it: each line wants a directory of its own"
                    ],
                    _ => expect![
                        "line 6, column 9: table: data/t/now is in the table of [offline], data/t, or that one in it: each line wants a directory of its own"
                    ],
                },
            );
        }
        check_behind_top(
            "[offline]\ntable = \"data/t\"\n[nearline]\ntable = \"data/t2\"\n",
            expect![[
                r#"orders.offline of ["orders"] into data/t by hour, Limits { rows_max: 10000000, bytes_max: 134217728, age_ms_max: 600000, late_ms_max: None }, columns value kafka_partition kafka_offset kafka_timestamp; orders.nearline of ["orders"] into data/t2 by hour, Limits { rows_max: 10000000, bytes_max: 134217728, age_ms_max: 5000, late_ms_max: None }, columns value kafka_partition kafka_offset kafka_timestamp"#
            ]],
        );
    }

    #[test]
    fn a_table_is_laid_out_by_fields_that_can_say_it() {
        let value = "[value]\nformat = \"json\"\nfields = [{ name = \"id\", type = \"int64\" }, { name = \"at\", type = \"timestamp\" }, { name = \"city\", type = \"string\" }]\n";
        let of = |more: &str| format!("{value}[offline]\ntable = \"t\"\n{more}");
        check_behind_top(
            &of(
                "time_field = \"at\"\npartition_fields = [\"city\", \"id\"]\nroll_late = \"5m\"\nsuccess = \"1h\"\n",
            ),
            expect![[
                r#"orders.offline of ["orders"] into t by hour;time=at;fields=city,id, Limits { rows_max: 10000000, bytes_max: 134217728, age_ms_max: 600000, late_ms_max: Some(300000) }, columns id at city kafka_partition kafka_offset kafka_timestamp"#
            ]],
        );
        check_behind_top(
            &of("partition_by = \"none\"\npartition_fields = [\"city\"]\n"),
            expect![[
                r#"orders.offline of ["orders"] into t by none;fields=city, Limits { rows_max: 10000000, bytes_max: 134217728, age_ms_max: 600000, late_ms_max: None }, columns id at city kafka_partition kafka_offset kafka_timestamp"#
            ]],
        );
        for (more, expected) in [
            (
                "time_field = \"when\"\n",
                expect![[
                    r#"line 8, column 14: time_field: the value has no field "when"; of those of type timestamp it has at"#
                ]],
            ),
            (
                "time_field = \"city\"\n",
                expect![[
                    r#"line 8, column 14: time_field: "city" is of type string, and timestamp can be here"#
                ]],
            ),
            (
                "partition_by = \"none\"\ntime_field = \"at\"\n",
                expect!["line 9, column 14: time_field: it says the time of directories, and there are none"],
            ),
            (
                "partition_by = \"none\"\nroll_late = \"5m\"\n",
                expect!["line 9, column 13: roll_late: it goes by directories of time, and there are none"],
            ),
            (
                "roll_late = \"soon\"\n",
                expect![[
                    r#"line 8, column 13: roll_late: "soon" is no time; 500ms, 30s, 10m and 1h30m are"#
                ]],
            ),
            (
                "partition_by = \"hour;time=at\"\n",
                expect![[r#"line 8, column 16: partition_by: "hour;time=at" is none of hour, day, none"#]],
            ),
            (
                "partition_fields = [\"city\", \"at\"]\n",
                expect![[
                    r#"line 8, column 29: partition_fields: "at" is of type timestamp, and string, int32, int64, bool and date can be here"#
                ]],
            ),
            (
                "partition_fields = [\"city\", \"city\"]\n",
                expect![[r#"line 8, column 29: partition_fields: "city" is there twice"#]],
            ),
            (
                "partition_fields = [\"Hour\"]\n",
                expect![[
                    r#"line 8, column 21: partition_fields: "Hour": directories of time are called so"#
                ]],
            ),
            (
                "partition_fields = [\"_id\"]\n",
                expect![[
                    r#"line 8, column 21: partition_fields: "_id": readers of tables pass over directories whose names begin with _ or a point"#
                ]],
            ),
            (
                "partition_fields = \"city\"\n",
                expect![[
                    r#"line 8, column 20: partition_fields takes a list, as in partition_fields = ["a", "b"]"#
                ]],
            ),
        ] {
            check_behind_top(&of(more), expected);
        }
        check_behind_top(
            "[value]\nformat = \"text\"\n[offline]\ntable = \"t\"\npartition_fields = [\"value\"]\n",
            expect!["line 7, column 20: partition_fields: values of bytes or text have no fields"],
        );
        check_behind_top(
            "[offline]\ntable = \"t\"\ntime_field = \"at\"\n",
            expect!["line 5, column 14: time_field: values of bytes or text have no fields"],
        );
        check_behind_top(
            "[value]\nformat = \"json\"\nfields = [{ name = \"city\", type = \"string\" }]\n[offline]\ntable = \"t\"\ncolumns = []\npartition_fields = [\"city\"]\n",
            expect!["line 9, column 20: partition_fields: no column is left for the files"],
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place_and_with_what_is_allowed() {
        check(
            "name = orders",
            expect!["line 1, column 8: string values must be quoted, expected literal string"],
        );
        check(
            "name = \"a/b\"\n",
            expect![[
                r#"line 1, column 8: name: "a/b" is no name: 1 to 249 letters, digits, '.', '_' and '-' are, not beginning with '.'"#
            ]],
        );
        check(
            "name = \"a\"\ntopics = [\"_a\"]\n",
            expect![
                "line 2, column 11: topic _a: readers of tables pass over files whose names begin with _ or a point"
            ],
        );
        check(
            &format!("name = \"a\"\ntopics = [\"{}\"]\n", "a".repeat(191)),
            expect![
                "line 2, column 11: topic aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa: files are named after it, which goes up to 190 characters"
            ],
        );
        check(
            "name = \"a\"\n",
            expect![[r#"line 1, column 1: topics is missing, as in topics = ["orders"]"#]],
        );
        check(
            "name = \"a\"\ntopics = \"a\"\n",
            expect![[r#"line 2, column 10: topics takes a list, as in topics = ["a", "b"]"#]],
        );
        check("name = \"a\"\ntopics = [\"a\",\n  \"a\"]\n", expect!["line 3, column 3: topic a comes twice"]);
        check_behind_top(
            "",
            expect![[
                r#"there is no line: [offline] with table = "DIRECTORY" is one, and [nearline] with topic = "TOPIC" is another"#
            ]],
        );
        check_behind_top(
            "tpoics = 3\n[offline]\ntable = \"t\"\n",
            expect![
                "line 3, column 1: tpoics is not known here; name, topics, start, throttle, client, value, dead_letters, offline, nearline are"
            ],
        );
        check_behind_top(
            "[offline]\n",
            expect![[r#"line 3, column 1: offline.table is missing, as in table = "/data/orders""#]],
        );
        check_behind_top(
            "[offline]\ntable = \"t\"\npartition_by = \"week\"\n",
            expect![[r#"line 5, column 16: partition_by: "week" is none of hour, day, none"#]],
        );
        check_behind_top(
            "[offline]\ntable = \"t\"\nroll_bytes = \"lots\"\n",
            expect![[r#"line 5, column 14: roll_bytes: "lots" is no size; 64KiB, 128MiB and 1GiB are"#]],
        );
        check_behind_top(
            "[offline]\ntable = \"t\"\nroll_rows = 0\n",
            expect!["line 5, column 13: roll_rows takes a whole number of at least 1"],
        );
        check_behind_top(
            "[offline]\ntable = \"t\"\nroll_age = \"-1s\"\n",
            expect![[r#"line 5, column 12: roll_age: "-1s" is no time; 500ms, 30s, 10m and 1h30m are"#]],
        );
        check_behind_top(
            "[offline]\ntable = \"t\"\ncolumns = [\"offset\", \"size\"]\n",
            expect![[
                r#"line 5, column 22: columns: "size" is none of topic, partition, offset, timestamp, key, headers"#
            ]],
        );
        check_behind_top(
            "[dead_letters]\ntopic = \"orders\"\n",
            expect!["line 4, column 9: topic: orders is read, and its dead letters would be read as well"],
        );
        check_behind_top(
            "[dead_letters]\ntopic = \"dead\"\n[nearline]\ntopic = \"out\"\n",
            expect![
                "line 3, column 1: dead letters are what is no row of a table: without a line that has one there are none"
            ],
        );
        check_behind_top(
            "[dead_letters]\n",
            expect![[r#"line 3, column 1: dead_letters.topic is missing, as in topic = "orders.dead""#]],
        );
        check_behind_top(
            "[value]\nformat = \"xml\"\n",
            expect![[r#"line 4, column 10: format: "xml" is none of bytes, text, json, avro, protobuf"#]],
        );
        check_behind_top(
            "[value]\nformat = \"json\"\n",
            expect![[
                r#"line 4, column 10: format = "json" needs fields, as in fields = [{ name = "id", type = "int64" }]"#
            ]],
        );
        check_behind_top(
            "[value]\nformat = \"json\"\nfields = [{ name = \"id\", type = \"int\" }]\n",
            expect![[
                r#"line 5, column 33: type: "int" is none of string, int32, int64, float32, float64, bool, timestamp, date, bytes, decimal(PRECISION,SCALE), struct, list, map"#
            ]],
        );
        check_behind_top(
            "[value]\nformat = \"json\"\nfields = [{ name = \"id\", kind = \"int64\" }]\n",
            expect![[r#"line 5, column 11: a field's type is missing, as in type = "int64""#]],
        );
        check_behind_top(
            "[value]\nformat = \"json\"\nfields = [{ name = \"id\", type = \"int64\" }, { name = \"ID\", type = \"int64\" }]\n[offline]\ntable = \"t\"\n",
            expect![[r#"line 6, column 1: there are two columns "ID""#]],
        );
        check_behind_top(
            "[value]\nformat = \"json\"\nfields = [{ name = \"Hour\", type = \"int64\" }]\n[offline]\ntable = \"t\"\n",
            expect![[
                r#"line 6, column 1: a column "hour" would be there twice, as partition_by = "hour" makes one of the directories' names: another name for the field, or partition_by = "none""#
            ]],
        );
        let nested = |field: &str| {
            format!("[value]\nformat = \"json\"\nfields = [{field}]\n[offline]\ntable = \"t\"\n")
        };
        for (field, expected) in [
            (
                r#"{ name = "a", type = "struct", fields = [{ name = "b", type = "list", items = { type = "map", values = { type = "decimal(10, 2)" } } }] }"#,
                expect![[
                    r#"orders.offline of ["orders"] into t by hour, Limits { rows_max: 10000000, bytes_max: 134217728, age_ms_max: 600000, late_ms_max: None }, columns a kafka_partition kafka_offset kafka_timestamp"#
                ]],
            ),
            (
                r#"{ name = "a", type = "struct" }"#,
                expect![[
                    r#"line 5, column 11: a field's fields is missing, as in fields = [{ name = "street", type = "string" }]"#
                ]],
            ),
            (
                r#"{ name = "a", type = "struct", fields = [] }"#,
                expect!["line 5, column 51: fields declares no field"],
            ),
            (
                r#"{ name = "a", type = "struct", fields = [{ name = "b", type = "date" }, { name = "B", type = "date" }] }"#,
                expect![[r#"line 5, column 51: there are two fields "B""#]],
            ),
            (
                r#"{ name = "a", type = "list", items = "string" }"#,
                expect![[r#"line 5, column 48: items is declared as { type = "string" }"#]],
            ),
            (
                r#"{ name = "a", type = "list", items = { typ = "string" } }"#,
                expect![[r#"line 5, column 48: the items' type is missing, as in type = "int64""#]],
            ),
            (
                r#"{ name = "a", type = "decimal(39,2)" }"#,
                expect![[
                    r#"line 5, column 32: type: "decimal(39,2)" is none of string, int32, int64, float32, float64, bool, timestamp, date, bytes, decimal(PRECISION,SCALE), struct, list, map"#
                ]],
            ),
            (
                r#"{ name = "a", type = "decimal(3,4)" }"#,
                expect![[
                    r#"line 5, column 32: type: "decimal(3,4)" is none of string, int32, int64, float32, float64, bool, timestamp, date, bytes, decimal(PRECISION,SCALE), struct, list, map"#
                ]],
            ),
            (
                r#"{ name = "a", type = "date", items = { type = "string" } }"#,
                expect!["line 5, column 40: a field's items is not known here; name, type, required are"],
            ),
        ] {
            check_behind_top(&nested(field), expected);
        }
        check_behind_top(
            "[client]\n\"bootstrap.server\" = \"a:1\"\n",
            expect![
                "line 4, column 22: bootstrap.server=a:1 cannot be used: there is no such option; did you mean bootstrap.servers?"
            ],
        );
        check_behind_top(
            "[client]\nbootstrap.servers = \"a:1\"\n",
            expect![[
                r#"there is no line: [offline] with table = "DIRECTORY" is one, and [nearline] with topic = "TOPIC" is another"#
            ]],
        );
    }
}
