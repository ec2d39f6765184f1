//! What commands print: tables for people, JSON for programs.
//!
//! Both are made from the same [`Report`], so they cannot say different things. Nothing is coloured; columns are
//! separated by spaces alone, so that `awk` can read the tables as well.

use std::io::{self, Write};

use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Map, Value};

use crate::failure::Failure;

/// How a command prints its answer.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutputArgs {
    /// A table for people or JSON for programs
    #[arg(long, global = true, value_enum, default_value_t = Style::Table)]
    format: Style,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Style {
    Table,
    Json,
}

/// Rows under named columns.
#[derive(Debug, Default)]
pub(crate) struct Report {
    columns: Vec<&'static str>,
    rows: Vec<Vec<Value>>,
}

impl Report {
    /// Columns by the names they have in JSON; tables show them in capitals.
    pub(crate) fn new(columns: &[&'static str]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, row: Vec<Value>) {
        assert_eq!(row.len(), self.columns.len());
        self.rows.push(row);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Leaves out columns in which no row has anything.
    pub(crate) fn without_empty(mut self, names: &[&str]) -> Self {
        for name in names {
            let Some(at) = self.columns.iter().position(|column| column == name) else { continue };
            if self.rows.iter().all(|row| row[at].is_null()) {
                self.columns.remove(at);
                self.rows.iter_mut().for_each(|row| drop(row.remove(at)));
            }
        }
        self
    }

    /// Leaves out a column in which every row has this value.
    pub(crate) fn without_same(mut self, name: &str, value: &Value) -> Self {
        let Some(at) = self.columns.iter().position(|column| *column == name) else { return self };
        if self.rows.iter().all(|row| row[at] == *value) {
            self.columns.remove(at);
            self.rows.iter_mut().for_each(|row| drop(row.remove(at)));
        }
        self
    }

    /// The rows as a JSON array of objects.
    pub(crate) fn json(&self) -> Value {
        let object = |row: &Vec<Value>| {
            let fields = self.columns.iter().map(|column| (*column).to_owned()).zip(row.iter().cloned());
            Value::Object(Map::from_iter(fields))
        };
        self.rows.iter().map(object).collect()
    }

    /// The rows as a table.
    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(self.columns.iter().map(|column| column.to_uppercase().replace('_', "-")));
        table.add_rows(self.rows.iter().map(|row| row.iter().map(cell)));
        table.column_iter_mut().for_each(|column| {
            column.set_padding((0, 2));
        });
        format!("{}\n", table.trim_fmt())
    }
}

/// A value as people read it; what is not there is a dash.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

impl OutputArgs {
    pub(crate) fn style(self) -> Style {
        self.format
    }

    /// Prints one report.
    pub(crate) fn print(self, report: &Report) -> Result<(), Failure> {
        match self.format {
            Style::Table => print(&report.table()),
            Style::Json => print_json(&report.json()),
        }
    }
}

/// Prints pretty JSON and a newline.
pub(crate) fn print_json(value: &Value) -> Result<(), Failure> {
    print(&format!("{value:#}\n"))
}

/// Prints text as it is.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Outcomes per thing: how each went, and whether all went well.
pub(crate) fn outcomes<T>(
    what: &'static str,
    outcomes: Vec<(wire::Str, Result<T, client::Error>)>,
    done: impl Fn(T) -> String,
) -> (Report, Result<(), Failure>) {
    let mut report = Report::new(&[what, "status", "error", "tip"]);
    let mut overall = Ok(());
    for (name, outcome) in outcomes {
        report.row(match outcome {
            Ok(value) => vec![name.as_ref().into(), done(value).into(), Value::Null, Value::Null],
            Err(error) => {
                overall = Err(Failure::Reported);
                let advice = error.advice().map_or(Value::Null, Value::from);
                vec![name.as_ref().into(), "FAILED".into(), error.to_string().into(), advice]
            }
        });
    }
    (report.without_empty(&["error", "tip"]), overall)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::{Value, json};

    use super::Report;

    #[test]
    fn a_table_and_json_say_the_same() {
        let mut report = Report::new(&["topic", "replicas", "load_error", "leader"]);
        report.row(vec!["orders".into(), json!([1, 2]), Value::Null, Value::Null]);
        report.row(vec!["a-longer-name".into(), json!([3]), Value::Null, json!(3)]);
        let report = report.without_empty(&["load_error"]);
        expect![[r#"
            TOPIC          REPLICAS  LEADER
            orders         1,2       -
            a-longer-name  3         3
        "#]]
        .assert_eq(&report.table());
        expect![[
            r#"[{"leader":null,"replicas":[1,2],"topic":"orders"},{"leader":3,"replicas":[3],"topic":"a-longer-name"}]"#
        ]]
        .assert_eq(&report.json().to_string());
    }
}
