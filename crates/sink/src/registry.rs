//! A schema registry, as Confluent's API has it: schemas by their ids, and by subjects and versions.
//!
//! Answers are of three kinds: a schema; that there is none, said by a registry and not by whatever else is at the address; and
//! that nobody can say now. Only the last is asked again. Answers are bounded, and a password is shown by nothing here.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// For an answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// A schema has at most so much.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Schemas that one refers to, and that those refer to.
const REFERENCES_MAX: usize = 100;
/// Between the first two times, and between the last ones.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);
const ASK_AGAIN_AFTER_MAX: Duration = Duration::from_secs(5);

/// What a password or a token makes of a request.
#[derive(Clone, PartialEq, Eq)]
struct Secret(HeaderValue);

/// Where a registry is.
#[derive(Clone, PartialEq, Eq)]
pub struct Registry {
    host: String,
    port: u16,
    /// Without a slash at its end.
    path: String,
    authorization: Option<Secret>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, path, .. } = self;
        write!(f, "http://{host}:{port}{path}")
    }
}

/// Why a registry gives no schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// It has none.
    #[error("{registry} does not have {asked}: {said}")]
    None {
        /// Where it is.
        registry: String,
        /// What it was asked for.
        asked: String,
        /// What it said.
        said: String,
    },
    /// Nobody answers, or not now.
    #[error("{registry} does not give {asked}: {problem}")]
    Away {
        /// Where it is.
        registry: String,
        /// What it was asked for.
        asked: String,
        /// What came instead.
        problem: String,
    },
    /// It will not answer otherwise.
    #[error("{registry} refuses {asked}: {problem}")]
    Refused {
        /// Where it is.
        registry: String,
        /// What it was asked for.
        asked: String,
        /// What came instead.
        problem: String,
    },
}

/// A schema with those it refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Registered {
    /// `AVRO`, `PROTOBUF`, `JSON`.
    pub(crate) kind: String,
    pub(crate) text: String,
    /// Names under which it refers to them, and their texts, each behind those that it refers to itself.
    pub(crate) references: Vec<(String, String)>,
}

const EXAMPLE: &str = "http://USER:PASSWORD@HOST:PORT";

impl FromStr for Registry {
    type Err = String;

    /// What is refused is not repeated: it may have a password in it.
    fn from_str(text: &str) -> Result<Self, String> {
        let no_address = || format!("it is no address of a registry; {EXAMPLE} is one");
        let rest = match text.split_once("://") {
            Some(("http", rest)) => rest,
            Some(("https", _)) => {
                return Err(format!("https is not spoken; {EXAMPLE} is, as to a proxy beside the sink"));
            }
            _ => return Err(no_address()),
        };
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (secret, authority) = match authority.rsplit_once('@') {
            Some((secret, authority)) => (Some(secret), authority),
            None => (None, authority),
        };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !host.ends_with(':') => (host, port.parse().map_err(|_| no_address())?),
            _ => (authority, 80),
        };
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if host.is_empty() || !is_plain(host) || !is_plain(path) || path.contains(['?', '#']) {
            return Err(no_address());
        }
        let authorization = match secret {
            Some(secret) => {
                let secret =
                    decoded(secret).filter(|secret| secret.contains(&b':')).ok_or_else(no_address)?;
                Some(Secret::new(&format!("Basic {}", STANDARD.encode(secret)))?)
            }
            None => None,
        };
        let path = path.trim_end_matches('/').to_owned();
        Ok(Self { host: host.to_owned(), port, path, authorization })
    }
}

impl Secret {
    fn new(text: &str) -> Result<Self, String> {
        let mut value =
            HeaderValue::from_str(text).map_err(|_| "it has characters that none has".to_owned())?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

/// What stands for itself or as `%40`.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend(&part.as_bytes()[2..]);
    }
    Some(bytes)
}

/// One part of a path.
fn encoded(part: &str) -> String {
    let one = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    part.bytes().map(one).collect()
}

/// What came to one request.
enum Answer {
    Is(Value),
    None(String),
    Away(String),
    Refused(String),
}

impl Registry {
    /// The same with a token in place of a user and a password.
    pub(crate) fn with_token(self, token: &str) -> Result<Self, String> {
        match self.authorization {
            Some(_) => {
                Err("the address has a user and a password, and a token goes in their place".to_owned())
            }
            None => Ok(Self { authorization: Some(Secret::new(&format!("Bearer {token}"))?), ..self }),
        }
    }

    /// The schema of an id. A registry that does not answer is asked until it does.
    pub(crate) async fn by_id(&self, id: u32) -> Result<Registered, RegistryError> {
        let (asked, path) = (format!("schema {id}"), format!("/schemas/ids/{id}"));
        let found = self.insist(&asked, &path, None).await?;
        self.with_references(&asked, found, None).await
    }

    /// The schema of a subject, in a version or the last one. A registry that does not answer is asked for so long.
    pub(crate) async fn by_subject(
        &self,
        subject: &str,
        version: Option<u32>,
        patience: Duration,
    ) -> Result<Registered, RegistryError> {
        let (asked, version) = match version {
            Some(version) => (format!("version {version} of {subject}"), version.to_string()),
            None => (format!("the latest version of {subject}"), "latest".to_owned()),
        };
        let path = format!("/subjects/{}/versions/{version}", encoded(subject));
        let until = Instant::now() + patience;
        let found = self.insist(&asked, &path, Some(until)).await?;
        let (version, id) = (found["version"].as_u64(), found["id"].as_u64());
        tracing::info!(registry = %self, subject, version, id, "the schema that says the columns");
        self.with_references(&asked, found, Some(until)).await
    }

    async fn with_references(
        &self,
        asked: &str,
        found: Value,
        until: Option<Instant>,
    ) -> Result<Registered, RegistryError> {
        let refused = |problem: &str| RegistryError::Refused {
            registry: self.to_string(),
            asked: asked.to_owned(),
            problem: problem.to_owned(),
        };
        let text = |value: &Value| value["schema"].as_str().map(str::to_owned);
        let no_schema = "the answer has no schema";
        let kind = found["schemaType"].as_str().unwrap_or("AVRO").to_owned();
        // Depth first, without a stack of calls: what is above its references comes again behind them.
        enum Work {
            Open(Value),
            Close(String, String),
        }
        let open = |of: &Value, work: &mut Vec<Work>| {
            let references = of["references"].as_array().map_or(&[][..], Vec::as_slice);
            work.extend(references.iter().rev().cloned().map(Work::Open));
        };
        let mut references: Vec<(String, String)> = Vec::new();
        let mut seen = Vec::new();
        let mut work = Vec::new();
        open(&found, &mut work);
        while let Some(next) = work.pop() {
            match next {
                Work::Close(name, text) => references.push((name, text)),
                Work::Open(reference) => {
                    let part = |key: &str| reference[key].as_str().map(str::to_owned);
                    let (Some(name), Some(subject), Some(version)) =
                        (part("name"), part("subject"), reference["version"].as_u64())
                    else {
                        return Err(refused("a reference has no name, subject or version"));
                    };
                    if seen.contains(&name) {
                        continue;
                    }
                    if seen.len() >= REFERENCES_MAX {
                        return Err(refused("it refers to more schemas than there may be"));
                    }
                    seen.push(name.clone());
                    let asked = format!("version {version} of {subject}");
                    let path = format!("/subjects/{}/versions/{version}", encoded(&subject));
                    let found = self.insist(&asked, &path, until).await?;
                    let text = text(&found).ok_or_else(|| refused(no_schema))?;
                    work.push(Work::Close(name, text));
                    open(&found, &mut work);
                }
            }
        }
        Ok(Registered { kind, text: text(&found).ok_or_else(|| refused(no_schema))?, references })
    }

    /// Asks until there is an answer, or until then.
    async fn insist(&self, asked: &str, path: &str, until: Option<Instant>) -> Result<Value, RegistryError> {
        let (registry, asked) = (self.to_string(), asked.to_owned());
        let mut wait = ASK_AGAIN_AFTER;
        loop {
            match self.ask(path).await {
                Answer::Is(value) => return Ok(value),
                Answer::None(said) => return Err(RegistryError::None { registry, asked, said }),
                Answer::Refused(problem) => return Err(RegistryError::Refused { registry, asked, problem }),
                Answer::Away(problem) if until.is_some_and(|until| Instant::now() + wait > until) => {
                    return Err(RegistryError::Away { registry, asked, problem });
                }
                Answer::Away(problem) => {
                    tracing::warn!(%registry, asked, problem, "the schema registry is asked again");
                    sleep(wait).await;
                    wait = (wait * 2).min(ASK_AGAIN_AFTER_MAX);
                }
            }
        }
    }

    async fn ask(&self, path: &str) -> Answer {
        match timeout(ANSWER_MAX, self.get(path)).await {
            Err(_) => Answer::Away(format!("there was no answer for {} s", ANSWER_MAX.as_secs())),
            Ok(Err(problem)) => Answer::Away(problem),
            Ok(Ok((status, body))) => answer(status, &body),
        }
    }

    /// A connection each: schemas are asked for once.
    async fn get(&self, path: &str) -> Result<(StatusCode, Bytes), String> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, self.port)).await.map_err(|error| error.to_string())?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
        let mut request = Request::get(format!("{}{path}", self.path))
            .header(HOST, format!("{}:{}", self.host, self.port))
            .header(ACCEPT, "application/vnd.schemaregistry.v1+json, application/json");
        if let Some(Secret(authorization)) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
        };
        tokio::pin!(exchange);
        tokio::select! {
            exchanged = &mut exchange => exchanged,
            ended = connection => match ended {
                Err(error) => Err(error.to_string()),
                // It has read everything there is.
                Ok(()) => exchange.await,
            },
        }
    }
}

/// Subjects, versions and schemas that are not there; another 404 comes from something that is no registry.
const NOT_FOUND: [i64; 3] = [40_401, 40_402, 40_403];

fn answer(status: StatusCode, body: &[u8]) -> Answer {
    let json: Option<Value> = serde_json::from_slice(body).ok();
    let code = json.as_ref().and_then(|json| json["error_code"].as_i64());
    let said = json.as_ref().and_then(|json| json["message"].as_str()).unwrap_or("nothing more").to_owned();
    match (status, json) {
        (StatusCode::OK, Some(json)) => Answer::Is(json),
        (StatusCode::OK, None) => Answer::Refused("the answer is no JSON".to_owned()),
        (StatusCode::NOT_FOUND, _) if code.is_some_and(|code| NOT_FOUND.contains(&code)) => {
            Answer::None(said)
        }
        (StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS, _) => {
            Answer::Away(format!("status {status}, {said}"))
        }
        (status, _) if status.is_server_error() => Answer::Away(format!("status {status}, {said}")),
        (status, _) => Answer::Refused(format!("status {status}, {said}")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::{Registry, RegistryError};
    use crate::testing::TestRegistry;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn an_address_is_taken_apart_and_its_password_is_not_shown() {
        let check = |text: &str, expected: Expect| {
            let registry = text.parse::<Registry>().map(|registry| format!("{registry} {registry:?}"));
            expected.assert_eq(&registry.unwrap_or_else(|problem| problem));
        };
        check("http://registry:8081", expect!["http://registry:8081 http://registry:8081"]);
        check("http://user:p%40ss@registry/api/", expect!["http://registry:80/api http://registry:80/api"]);
        check("http://[::1]:8081", expect!["http://[::1]:8081 http://[::1]:8081"]);
        check(
            "https://user:secret@registry",
            expect!["https is not spoken; http://USER:PASSWORD@HOST:PORT is, as to a proxy beside the sink"],
        );
        check(
            "user:secret@registry",
            expect!["it is no address of a registry; http://USER:PASSWORD@HOST:PORT is one"],
        );
        check(
            "http://secret@registry",
            expect!["it is no address of a registry; http://USER:PASSWORD@HOST:PORT is one"],
        );
        check(
            "http://user:secret@registry:port",
            expect!["it is no address of a registry; http://USER:PASSWORD@HOST:PORT is one"],
        );
        check(
            "http://user:secret@",
            expect!["it is no address of a registry; http://USER:PASSWORD@HOST:PORT is one"],
        );
        check(
            "http://registry/?secret",
            expect!["it is no address of a registry; http://USER:PASSWORD@HOST:PORT is one"],
        );
    }

    #[tokio::test]
    async fn schemas_come_with_what_they_refer_to_each_once_and_in_order() {
        let server = TestRegistry::start().await;
        let refer = |names: &[&str]| {
            let one = |name: &&str| json!({ "name": name, "subject": name, "version": 1 });
            names.iter().map(one).collect::<serde_json::Value>()
        };
        server.register("a", "AVRO", "A", json!([]));
        server.register("b", "AVRO", "B", refer(&["a"]));
        server.register("c", "AVRO", "C", refer(&["a", "b", "c"]));
        let id = server.register("d/e", "PROTOBUF", "D", refer(&["b", "c"]));
        let registry: Registry = server.address.parse().unwrap();
        let found = registry.by_id(id).await.unwrap();
        assert_eq!(found.kind, "PROTOBUF");
        let names: Vec<_> = found.references.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        expect!["/schemas/ids/4 /subjects/b/versions/1 /subjects/a/versions/1 /subjects/c/versions/1"]
            .assert_eq(&server.asked().join(" "));
        assert_eq!(registry.by_subject("c", None, PATIENCE).await.unwrap().text, "C");
        assert!(registry.by_subject("d/e", Some(1), PATIENCE).await.is_err());
        expect!["/subjects/c/versions/latest /subjects/a/versions/1 /subjects/b/versions/1 /subjects/c/versions/1 /subjects/d%2Fe/versions/1"].assert_eq(&server.asked().join(" "));
    }

    #[tokio::test]
    async fn one_that_fails_is_asked_again_and_one_that_answers_is_not() {
        let server = TestRegistry::start().await;
        let id = server.register("a", "AVRO", "A", json!([]));
        let registry: Registry = server.address.parse().unwrap();
        server.fail(3);
        assert_eq!(registry.by_id(id).await.unwrap().text, "A");
        assert_eq!(server.asked().len(), 4);
        let told = |error: RegistryError| error.to_string().replace(&server.address, "http://registry");
        expect!["http://registry does not have schema 7: Schema not found"]
            .assert_eq(&told(registry.by_id(7).await.unwrap_err()));
        expect!["http://registry does not have the latest version of b: Subject not found"]
            .assert_eq(&told(registry.by_subject("b", None, PATIENCE).await.unwrap_err()));
        expect!["http://registry does not have version 2 of a: Version not found"]
            .assert_eq(&told(registry.by_subject("a", Some(2), PATIENCE).await.unwrap_err()));
        assert_eq!(server.asked().len(), 3);
        // Something that is no registry knows of no schema that there is none.
        let elsewhere: Registry = format!("{}/elsewhere", server.address).parse().unwrap();
        expect!["http://registry/elsewhere refuses schema 1: status 404 Not Found, HTTP 404 Not Found"]
            .assert_eq(&told(elsewhere.by_id(id).await.unwrap_err()));
        server.fail(usize::MAX);
        expect!["http://registry does not give the latest version of a: status 503 Service Unavailable, nothing more"].assert_eq(&told(registry.by_subject("a", None, Duration::ZERO).await.unwrap_err()));
    }

    #[tokio::test]
    async fn who_asks_says_who_it_is() {
        let server = TestRegistry::start().await;
        let id = server.register("a", "AVRO", "A", json!([]));
        let registry: Registry = server.address.replace("//", "//user:p%40ss@").parse().unwrap();
        server.demand("Basic dXNlcjpwQHNz");
        assert_eq!(registry.by_id(id).await.unwrap().text, "A");
        server.demand("Bearer token");
        let told = registry.by_id(id).await.unwrap_err().to_string();
        expect!["http://registry refuses schema 1: status 401 Unauthorized, Unauthorized"]
            .assert_eq(&told.replace(&server.address, "http://registry"));
        assert!(registry.with_token("token").is_err());
        let registry = server.address.parse::<Registry>().unwrap().with_token("token").unwrap();
        assert_eq!(registry.by_id(id).await.unwrap().text, "A");
    }
}
