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
use crate::avro_schema;
use crate::column::Column;
use crate::columns::Unconvertible;
use crate::fault::Fault;
use crate::kind::JsonField;
use crate::protobuf;
use crate::protobuf_schema::{self, Messages, NESTED_MAX};
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
    codec: Codec,
    /// Not known before [`Encoded::settled`] if the registry says it.
    reader: Option<Reader>,
    /// Where writers' schemas are; without it they are the reader's, and values have no frame.
    source: Option<Source>,
    writers: Mutex<HashMap<u32, Writer>>,
}

/// How values are encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Codec {
    Avro,
    Protobuf {
        /// Its full name; the only one there is, if none.
        message: Option<String>,
    },
}

/// What the table has.
#[derive(Debug)]
enum Reader {
    Avro {
        schema: avro_schema::Schema,
        fields: Vec<JsonField>,
        /// For values that were written by the very same schema.
        plan: Plan,
    },
    /// Fields have numbers, by which a message is read whatever it was written by.
    Protobuf(protobuf_schema::Schema),
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
    Avro(Arc<Plan>),
    Protobuf(Arc<Messages>),
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
        let parse = || avro_schema::Schema::parse(texts.iter().copied());
        let schema = parse()?;
        let fields = schema.columns().map_err(told)?;
        let plan = Plan::new(parse()?, &schema).map_err(told)?;
        Ok(Self::Avro { schema, fields, plan })
    }

    fn from_file(codec: &Codec, path: &Path) -> Result<Self, String> {
        match codec {
            Codec::Avro => Self::avro(&[&std::fs::read_to_string(path).map_err(|error| error.to_string())?]),
            Codec::Protobuf { message } => {
                protobuf_schema::Schema::from_file(path, message.as_deref()).map(Self::Protobuf)
            }
        }
    }

    fn registered(codec: &Codec, registered: &Registered) -> Result<Self, String> {
        codec.check(registered)?;
        match codec {
            Codec::Avro => Self::avro(&texts(registered)),
            Codec::Protobuf { message } => {
                let Registered { text, references, .. } = registered;
                protobuf_schema::Schema::from_text(text, references, message.as_deref()).map(Self::Protobuf)
            }
        }
    }

    /// How values of a writer's schema are read.
    fn writer(&self, codec: &Codec, registered: &Registered) -> Result<Writer, String> {
        codec.check(registered)?;
        match self {
            Self::Avro { schema, .. } => {
                let writer = avro_schema::Schema::parse(texts(registered))?;
                let plan = Plan::new(writer, schema).map_err(|fault| fault.told())?;
                Ok(Writer::Avro(Arc::new(plan)))
            }
            Self::Protobuf(_) => Ok(Writer::Protobuf(Arc::new(Messages::parse(&registered.text)?))),
        }
    }
}

impl Codec {
    /// Whether a schema is of this kind, as registries call it.
    fn check(&self, Registered { kind, .. }: &Registered) -> Result<(), String> {
        let name = match self {
            Self::Avro => "AVRO",
            Self::Protobuf { .. } => "PROTOBUF",
        };
        match kind == name {
            true => Ok(()),
            false => Err(format!("it is of type {kind}, and values are declared as {name}")),
        }
    }
}

fn texts(Registered { text, references, .. }: &Registered) -> Vec<&str> {
    references.iter().map(|(_, text)| text).chain([text]).map(String::as_str).collect()
}

impl Encoded {
    /// Values by the schema in a file, or by that of a source, or by the one in the file whatever the source says they were written by.
    pub(crate) fn new(codec: Codec, schema: Option<&Path>, source: Option<Source>) -> Result<Self, String> {
        let read = |path: &Path| {
            Reader::from_file(&codec, path).map_err(|problem| format!("{}: {problem}", path.display()))
        };
        let reader = schema.map(read).transpose()?;
        assert!(reader.is_some() || source.is_some(), "somebody says the columns");
        Ok(Self { codec, reader, source, writers: Mutex::default() })
    }

    #[cfg(test)]
    pub(crate) fn avro_text(text: &str) -> Result<Self, String> {
        Self::avro_by(text, text)
    }

    /// Of values that were written by another schema than they are read by, without a frame.
    #[cfg(test)]
    pub(crate) fn avro_by(writer: &str, reader: &str) -> Result<Self, String> {
        let mut reader = Reader::avro(&[reader])?;
        if let Reader::Avro { schema, plan, .. } = &mut reader {
            let writer = avro_schema::Schema::parse([writer])?;
            *plan = Plan::new(writer, schema).map_err(|fault| fault.told())?;
        }
        Ok(Self { codec: Codec::Avro, reader: Some(reader), source: None, writers: Mutex::default() })
    }

    #[cfg(test)]
    pub(crate) fn protobuf_text(text: &str, message: Option<&str>) -> Result<Self, String> {
        let reader = Reader::Protobuf(protobuf_schema::Schema::from_text(text, &[], message)?);
        let codec = Codec::Protobuf { message: None };
        Ok(Self { codec, reader: Some(reader), source: None, writers: Mutex::default() })
    }

    /// The columns, once they are known.
    pub(crate) fn fields(&self) -> &[JsonField] {
        match &self.reader {
            None => &[],
            Some(Reader::Avro { fields, .. }) => fields,
            Some(Reader::Protobuf(schema)) => &schema.columns,
        }
    }

    /// Whether the columns are known.
    pub(crate) fn is_settled(&self) -> bool {
        self.reader.is_some()
    }

    /// Asks the registry for the columns, if it is the one that says them.
    pub(crate) async fn settled(&self) -> Result<Option<Self>, SchemaError> {
        let (None, Some(source)) = (&self.reader, &self.source) else { return Ok(None) };
        let Source { registry, subject, version } = source;
        let registered = registry.by_subject(subject, *version, READER_PATIENCE).await?;
        let reader = Reader::registered(&self.codec, &registered);
        let reader = Some(reader.map_err(|problem| self.unusable(problem))?);
        let (codec, source) = (self.codec.clone(), Some(source.clone()));
        Ok(Some(Self { codec, reader, source, writers: Mutex::default() }))
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
            // No registry gives such an id, and some do not say so of it.
            if i32::try_from(id).is_err() {
                let said = "ids have 31 bits".to_owned();
                self.writers().insert(id, Writer::None { said, since: Instant::now() });
                continue;
            }
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
                Ok(registered) => reader.writer(&self.codec, &registered).unwrap_or_else(Writer::Unreadable),
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
            return Ok(match reader {
                Reader::Avro { plan, .. } => plan.append(value, columns)?,
                Reader::Protobuf(schema) => schema.message.append(value, columns)?,
            });
        }
        let (id, value) = frame(value)?;
        let writer = self.writers().get(&id).cloned();
        match (writer.expect("it was made ready before"), reader) {
            (Writer::Avro(plan), _) => Ok(plan.append(value, columns)?),
            (Writer::Protobuf(messages), Reader::Protobuf(schema)) => {
                let (path, value) = place(value)?;
                let wanted = &schema.message;
                match messages.at(&path) {
                    Some(name) if name == wanted.name => Ok(wanted.append(value, columns)?),
                    Some(name) => {
                        Err(Fault::new(format!("it is a {name}, and the table has a {}", wanted.name)).into())
                    }
                    None => Err(Fault::new(format!("schema {id} has no message {path:?}")).into()),
                }
            }
            (Writer::Protobuf(_), Reader::Avro { .. }) => unreachable!("it was checked for the codec"),
            (Writer::None { said, .. }, _) => {
                Err(Fault::new(format!("the registry has no schema {id}: {said}")).into())
            }
            (Writer::Unreadable(problem), _) => {
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

/// Which message of a file a value is: how many numbers follow, and the place of each message within the one before. The first
/// message of a file is often written as no numbers.
fn place(value: &[u8]) -> Result<(Vec<usize>, &[u8]), Fault> {
    let mut left = value;
    let count = protobuf::index(&mut left)?;
    if count > NESTED_MAX {
        return Err(Fault::new(format!(
            "messages are declared {NESTED_MAX} deep at most, and it says {count}"
        )));
    }
    let mut path = Vec::with_capacity(count);
    for _ in 0..count {
        path.push(protobuf::index(&mut left)?);
    }
    if path.is_empty() {
        path.push(0);
    }
    Ok((path, left))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use expect_test::expect;
    use serde_json::json;

    use super::{Codec, Encoded, Source};
    use crate::testing::{TestRegistry, hex, record, row};

    fn order(fields: &serde_json::Value) -> String {
        json!({ "type": "record", "name": "Order", "fields": fields }).to_string()
    }

    fn framed(id: u32, value: &str) -> Vec<u8> {
        [&[0][..], &id.to_be_bytes(), &hex(value)].concat()
    }

    async fn latest(server: &TestRegistry) -> Arc<Encoded> {
        latest_of(server, Codec::Avro).await
    }

    async fn latest_of(server: &TestRegistry, codec: Codec) -> Arc<Encoded> {
        let (registry, subject) = (server.address.parse().unwrap(), "orders-value".to_owned());
        let encoded = Encoded::new(codec, None, Some(Source { registry, subject, version: None })).unwrap();
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
            -: the registry has no schema 4294967295: ids have 31 bits
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

    #[tokio::test]
    async fn messages_are_read_by_their_numbers_and_others_of_the_file_are_not() {
        let server = TestRegistry::start().await;
        let register = |text: &str, references| {
            server.register("orders-value", "PROTOBUF", &format!("syntax = \"proto3\"; {text}"), references)
        };
        let first = register(
            "package shop; message Order { int32 id = 1; } message Refund { message Why { int32 id = 1; } int32 id = 1; map<string, Why> m = 2; message How { int32 id = 1; } }",
            json!([]),
        );
        server.register(
            "city",
            "PROTOBUF",
            "syntax = \"proto3\"; package geo; message City { string name = 1; }",
            json!([]),
        );
        let references = json!([{ "name": "geo/city.proto", "subject": "city", "version": 1 }]);
        let second = register(
            "package shop; import \"geo/city.proto\"; message Order { int64 id = 1; geo.City city = 2; }",
            references,
        );
        let encoded = latest_of(&server, Codec::Protobuf { message: None }).await;
        let third = register(
            "package shop; message New { int32 a = 1; } message Order { int64 id = 1; string more = 3; }",
            json!([]),
        );
        let values = [
            framed(first, "00 0801"),
            framed(first, "0200 0801"),
            framed(first, "0202 0801"),
            framed(first, "040200 0801"),
            framed(first, "040202 0801"),
            framed(first, "040204 0801"),
            framed(first, "01 0801"),
            framed(first, "84 01 00"),
            framed(first, "04"),
            framed(first, ""),
            framed(second, "00 0801 1203 0a0161"),
            framed(third, "0202 0801 1a0161"),
            framed(99, "00 0801"),
        ];
        expect![[r#"
            id=1 city=-
            id=1 city=-
            -: it is a shop.Refund, and the table has a shop.Order
            -: it is a shop.Refund.Why, and the table has a shop.Order
            -: it is a shop.Refund.How, and the table has a shop.Order
            -: schema 1 has no message [1, 2]
            -: -1 is no place of a message
            -: messages are declared 32 deep at most, and it says 66
            -: the value ends within a number
            -: the value ends within a number
            id=1 city={name="a"}
            id=1 city=-
            -: the registry has no schema 99: Schema not found
        "#]]
        .assert_eq(&rows(&encoded, &values).await);
        let how = latest_of(&server, Codec::Protobuf { message: Some("shop.New".to_owned()) }).await;
        assert_eq!(rows(&how, &[framed(third, "00 0803")]).await, "a=3\n");
    }
}
