//! Values in a binary form, whose columns a schema says.
//!
//! The reader's schema says the columns; it is one for a run. Who wrote a value may have meant another one, which its frame names
//! and a registry has: it is resolved to the reader's, or refused. A value is never read by a guess, and none is refused because a
//! registry does not answer.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use client::ConsumedRecord;
use tokio::time::Instant;

use crate::avro::Plan;
use crate::avro_schema::Schema;
use crate::column::Column;
use crate::columns::Unconvertible;
use crate::fault::Fault;
use crate::kind::JsonField;
use crate::registry::{Registered, Registry, RegistryError};

/// Writers' schemas that are at hand. With one more, those that are not needed right now are asked for again.
const WRITERS_MAX: usize = 1000;
/// How long it is believed that a registry has no schema of an id: what answers may be a copy that is behind.
const NONE_FOR: Duration = Duration::from_secs(5);
/// How long a registry is asked for the reader's schema, before the run ends.
const READER_PATIENCE: Duration = Duration::from_secs(30);

/// How values are encoded, and by which schema they are read.
#[derive(Debug)]
pub struct Encoded {
    /// Not known before [`Encoded::settled`] if the registry says it.
    reader: Option<Reader>,
    /// Where writers' schemas are; without it they are the reader's, and values have no frame.
    source: Option<Source>,
    writers: Mutex<HashMap<u32, Writer>>,
}

/// What the table has.
#[derive(Debug)]
struct Reader {
    schema: Schema,
    fields: Vec<JsonField>,
    /// For values that were written by the very same schema.
    plan: Plan,
}

/// A registry, and what it calls the schema of the values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) registry: Registry,
    pub(crate) subject: String,
    /// The last one, if none.
    pub(crate) version: Option<u32>,
}

/// How values of a writer's schema are read.
#[derive(Debug, Clone)]
enum Writer {
    Known(Arc<Plan>),
    /// The registry has no such schema, or not by then.
    None {
        said: String,
        since: Instant,
    },
    /// It does not become the reader's.
    Unreadable(String),
}

/// Why a run has no schema to read by.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The registry does not give it.
    #[error("the schema that says the columns: {0}")]
    Registry(#[from] RegistryError),
    /// It cannot be the columns of a table.
    #[error("the schema that says the columns, of {subject} in {registry}: {problem}")]
    Unusable {
        /// Where it is.
        registry: String,
        /// Of what.
        subject: String,
        /// What is wrong.
        problem: String,
    },
}

impl Reader {
    fn avro(texts: &[&str]) -> Result<Self, String> {
        let told = |fault: Fault| fault.told();
        let schema = Schema::parse(texts.iter().copied())?;
        let fields = schema.columns().map_err(told)?;
        let plan = Plan::new(Schema::parse(texts.iter().copied())?, &schema).map_err(told)?;
        Ok(Self { schema, fields, plan })
    }

    fn registered(registered: &Registered) -> Result<Self, String> {
        Self::avro(&avro_texts(registered)?)
    }

    fn plan(&self, registered: &Registered) -> Result<Plan, String> {
        Plan::new(Schema::parse(avro_texts(registered)?)?, &self.schema).map_err(|fault| fault.told())
    }
}

fn avro_texts(Registered { kind, text, references }: &Registered) -> Result<Vec<&str>, String> {
    match kind.as_str() {
        "AVRO" => Ok(references.iter().map(|(_, text)| text).chain([text]).map(String::as_str).collect()),
        other => Err(format!("it is of type {other}, and values are declared as AVRO")),
    }
}

impl Encoded {
    fn new(reader: Option<Reader>, source: Option<Source>) -> Self {
        assert!(reader.is_some() || source.is_some(), "somebody says the columns");
        Self { reader, source, writers: Mutex::default() }
    }

    /// Avro by the schema in a file, or by that of a source, or resolved to the one in the file from those in the source.
    pub(crate) fn avro(schema: Option<&Path>, source: Option<Source>) -> Result<Self, String> {
        let read = |path: &Path| {
            let failed = |problem: String| format!("{}: {problem}", path.display());
            let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
            Reader::avro(&[&text]).map_err(failed)
        };
        Ok(Self::new(schema.map(read).transpose()?, source))
    }

    #[cfg(test)]
    pub(crate) fn avro_text(text: &str) -> Result<Self, String> {
        Ok(Self::new(Some(Reader::avro(&[text])?), None))
    }

    /// Of values that were written by another schema than they are read by, without a frame.
    #[cfg(test)]
    pub(crate) fn avro_by(writer: &str, reader: &str) -> Result<Self, String> {
        let mut reader = Reader::avro(&[reader])?;
        reader.plan = Plan::new(Schema::parse([writer])?, &reader.schema).map_err(|fault| fault.told())?;
        Ok(Self::new(Some(reader), None))
    }

    /// The columns, once they are known.
    pub(crate) fn fields(&self) -> &[JsonField] {
        self.reader.as_ref().map_or(&[], |reader| &reader.fields)
    }

    /// Asks the registry for the columns, if it is the one that says them.
    pub(crate) async fn settled(&self) -> Result<Option<Self>, SchemaError> {
        let (None, Some(source)) = (&self.reader, &self.source) else { return Ok(None) };
        let Source { registry, subject, version } = source;
        let registered = registry.by_subject(subject, *version, READER_PATIENCE).await?;
        let reader = Reader::registered(&registered).map_err(|problem| self.unusable(problem))?;
        Ok(Some(Self::new(Some(reader), Some(source.clone()))))
    }

    /// What is wrong with the schema that a registry gave.
    pub(crate) fn unusable(&self, problem: String) -> SchemaError {
        let source = self.source.as_ref().expect("a registry gave it");
        SchemaError::Unusable {
            registry: source.registry.to_string(),
            subject: source.subject.clone(),
            problem,
        }
    }

    /// Has the schemas at hand that these were written by. Waits for the registry as long as it does not answer.
    pub(crate) async fn prepare(&self, records: &[ConsumedRecord]) -> Result<(), RegistryError> {
        let (Some(reader), Some(source)) = (&self.reader, &self.source) else { return Ok(()) };
        let mut ids: Vec<u32> = Vec::new();
        for record in records {
            // What has no frame has no schema, and is told so when its turn comes.
            let Some(Ok((id, _))) = record.value.as_deref().map(frame) else { continue };
            if ids.last() != Some(&id) && !ids.contains(&id) {
                ids.push(id);
            }
        }
        let now = Instant::now();
        {
            let mut writers = self.writers();
            if writers.len() + ids.len() > WRITERS_MAX {
                writers.retain(|id, _| ids.contains(id));
            }
            ids.retain(|id| match writers.get(id) {
                None => true,
                Some(Writer::None { since, .. }) => now - *since > NONE_FOR,
                Some(_) => false,
            });
        }
        for id in ids {
            let writer = match source.registry.by_id(id).await {
                Ok(registered) => match reader.plan(&registered) {
                    Ok(plan) => Writer::Known(Arc::new(plan)),
                    Err(problem) => Writer::Unreadable(problem),
                },
                Err(RegistryError::None { said, .. }) => Writer::None { said, since: Instant::now() },
                Err(error) => return Err(error),
            };
            self.writers().insert(id, writer);
        }
        Ok(())
    }

    fn writers(&self) -> MutexGuard<'_, HashMap<u32, Writer>> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a value, whose schema is at hand. Gives what it takes beyond its own bytes.
    pub(crate) fn append(&self, value: &[u8], columns: &mut [Column]) -> Result<usize, Unconvertible> {
        let reader = self.reader.as_ref().expect("columns are made when it is known which");
        if self.source.is_none() {
            return Ok(reader.plan.append(value, columns)?);
        }
        let (id, value) = frame(value)?;
        let writer = self.writers().get(&id).cloned();
        match writer.expect("it was made ready before") {
            Writer::Known(plan) => Ok(plan.append(value, columns)?),
            Writer::None { said, .. } => {
                Err(Fault::new(format!("the registry has no schema {id}: {said}")).into())
            }
            Writer::Unreadable(problem) => {
                Err(Fault::new(format!("schema {id} cannot be read as the table's: {problem}")).into())
            }
        }
    }
}

/// The id of a schema, and the value by it: a byte of zero and four of the id, as Confluent's serializers write.
fn frame(value: &[u8]) -> Result<(u32, &[u8]), Fault> {
    match value {
        [0, a, b, c, d, rest @ ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]), rest)),
        [first, ..] if *first != 0 => Err(Fault::new(format!(
            "it begins with the byte {first}, and with 0 begins what names a schema of a registry"
        ))),
        _ => Err(Fault::new(format!("{} bytes are too few to name a schema of a registry", value.len()))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use expect_test::expect;
    use serde_json::json;

    use super::{Encoded, Source};
    use crate::testing::{TestRegistry, hex, record, row};

    fn order(fields: &serde_json::Value) -> String {
        json!({ "type": "record", "name": "Order", "fields": fields }).to_string()
    }

    fn framed(id: u32, value: &str) -> Vec<u8> {
        [&[0][..], &id.to_be_bytes(), &hex(value)].concat()
    }

    async fn latest(server: &TestRegistry) -> Arc<Encoded> {
        let (registry, subject) = (server.address.parse().unwrap(), "orders-value".to_owned());
        let encoded = Encoded::avro(None, Some(Source { registry, subject, version: None })).unwrap();
        Arc::new(encoded.settled().await.unwrap().unwrap())
    }

    async fn rows(encoded: &Arc<Encoded>, values: &[Vec<u8>]) -> String {
        let records: Vec<_> = values.iter().map(|value| record(Some(value))).collect();
        encoded.prepare(&records).await.unwrap();
        values.iter().map(|value| row(encoded, Some(value)) + "\n").collect()
    }

    #[tokio::test]
    async fn values_of_every_version_are_read_by_the_one_of_the_run() {
        let server = TestRegistry::start().await;
        let register = |fields| server.register("orders-value", "AVRO", &order(&fields), json!([]));
        let first = register(json!([{ "name": "id", "type": "int" }]));
        let second = register(json!([
            { "name": "id", "type": "long" }, { "name": "city", "type": ["null", "string"], "default": null }
        ]));
        let encoded = latest(&server).await;
        server.asked();
        let third = register(json!([
            { "name": "new", "type": "double" }, { "name": "id", "type": "int" }, { "name": "city", "type": "string" }
        ]));
        let values = [
            framed(first, "02"),
            framed(second, "feffffffffffffffff01 00"),
            framed(first, "03"),
            framed(third, "000000000000f83f 02 0261"),
        ];
        expect![[r#"
            id=1 city=-
            id=9223372036854775807 city=-
            id=-2 city=-
            id=1 city="a"
        "#]]
        .assert_eq(&rows(&encoded, &values).await);
        // Each was asked for once.
        expect!["/schemas/ids/1 /schemas/ids/2 /schemas/ids/3"].assert_eq(&server.asked().join(" "));
        assert_eq!(rows(&encoded, &values[..1]).await, "id=1 city=-\n");
        assert_eq!(server.asked().len(), 0);
        // The next run has the columns of then.
        expect![[r#"
            new=1.5 id=1 city="a"
        "#]]
        .assert_eq(&rows(&latest(&server).await, &values[3..]).await);
    }

    #[tokio::test]
    async fn what_has_no_frame_or_no_schema_is_no_row_and_a_registry_that_is_away_is_waited_for() {
        let server = TestRegistry::start().await;
        let register = |kind, fields| server.register("orders-value", kind, &order(&fields), json!([]));
        let other = register("AVRO", json!([{ "name": "id", "type": "string" }]));
        let json = register("JSON", json!([]));
        let broken = server.register("orders-value", "AVRO", "{", json!([]));
        let id = register("AVRO", json!([{ "name": "id", "type": "int" }]));
        let encoded = latest(&server).await;
        let values = [
            vec![],
            vec![0],
            vec![0, 0, 0, 0],
            vec![1, 0, 0, 0, 1, 2],
            b"{\"id\":1}".to_vec(),
            framed(other, "0261"),
            framed(json, "02"),
            framed(broken, "02"),
            framed(99, "02"),
            framed(u32::MAX, "02"),
            framed(id, ""),
            framed(id, "0200"),
            framed(id, "02"),
        ];
        server.fail(2);
        expect![[r#"
            -: 0 bytes are too few to name a schema of a registry
            -: 1 bytes are too few to name a schema of a registry
            -: 4 bytes are too few to name a schema of a registry
            -: it begins with the byte 1, and with 0 begins what names a schema of a registry
            -: it begins with the byte 123, and with 0 begins what names a schema of a registry
            -: schema 1 cannot be read as the table's: field id: string was written, which is no int
            -: schema 2 cannot be read as the table's: it is of type JSON, and values are declared as AVRO
            -: schema 3 cannot be read as the table's: it is no JSON: EOF while parsing an object at line 1 column 1
            -: the registry has no schema 99: Schema not found
            -: the registry has no schema 4294967295: Schema not found
            id: the value ends within a number
            -: 1 bytes are left behind the value
            id=1
        "#]].assert_eq(&rows(&encoded, &values).await);
        assert_eq!(server.failures(), 0);
    }

    #[tokio::test]
    async fn types_that_a_schema_refers_to_are_found() {
        let server = TestRegistry::start().await;
        let city =
            json!({ "type": "record", "name": "geo.City", "fields": [{ "name": "name", "type": "string" }] });
        server.register("city", "AVRO", &city.to_string(), json!([]));
        let references = json!([{ "name": "geo.City", "subject": "city", "version": 1 }]);
        let fields = json!([{ "name": "city", "type": "geo.City" }]);
        let id = server.register("orders-value", "AVRO", &order(&fields), references);
        let encoded = latest(&server).await;
        assert_eq!(rows(&encoded, &[framed(id, "0261")]).await, "city={name=\"a\"}\n");
    }

    #[tokio::test]
    async fn no_more_schemas_are_kept_than_there_may_be() {
        let server = TestRegistry::start().await;
        let fields = json!([{ "name": "id", "type": "int" }]);
        let id = server.register("orders-value", "AVRO", &order(&fields), json!([]));
        let encoded = latest(&server).await;
        let unknown = (2..).take(super::WRITERS_MAX).map(|id| record(Some(&framed(id, "02"))));
        encoded.prepare(&unknown.collect::<Vec<_>>()).await.unwrap();
        assert_eq!(encoded.writers().len(), super::WRITERS_MAX);
        assert_eq!(rows(&encoded, &[framed(id, "02")]).await, "id=1\n");
        assert_eq!(encoded.writers().len(), 1);
    }
}
