//! Values in a binary form, whose columns a schema says.
//!
//! The reader's schema says the columns; it is one for a run. Who wrote a value may have meant another one, and it is resolved to
//! the reader's or refused: a value is never read by a guess.

use std::path::Path;

use crate::avro::Plan;
use crate::avro_schema::Schema;
use crate::column::Column;
use crate::columns::Unconvertible;
use crate::fault::Fault;
use crate::kind::JsonField;

/// How values are encoded, and by which schema they are read.
#[derive(Debug)]
pub struct Encoded {
    fields: Vec<JsonField>,
    /// For values as they are written by the very schema that they are read by.
    plan: Plan,
}

impl Encoded {
    /// Avro by the schema in a file, without a frame.
    pub(crate) fn avro_file(path: &Path) -> Result<Self, String> {
        let failed = |problem: String| format!("{}: {problem}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        Self::avro(&text).map_err(failed)
    }

    pub(crate) fn avro(text: &str) -> Result<Self, String> {
        Self::avro_by(text, text)
    }

    pub(crate) fn avro_by(writer: &str, reader: &str) -> Result<Self, String> {
        let told = |fault: Fault| fault.told();
        let reader = Schema::parse([reader])?;
        let fields = reader.columns().map_err(told)?;
        let plan = Plan::new(Schema::parse([writer])?, &reader).map_err(told)?;
        Ok(Self { fields, plan })
    }

    /// The columns.
    pub(crate) fn fields(&self) -> &[JsonField] {
        &self.fields
    }

    /// Appends a value. Gives what it takes beyond its own bytes.
    pub(crate) fn append(&self, value: &[u8], columns: &mut [Column]) -> Result<usize, Unconvertible> {
        Ok(self.plan.append(value, columns)?)
    }
}
