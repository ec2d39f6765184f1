//! A schema registry in memory, that can be told to fail.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

#[derive(Default)]
struct State {
    /// Subject, type, text and references; the id is the place, from 1.
    schemas: Vec<(String, &'static str, String, Value)>,
    asked: Vec<String>,
    /// Answers that are to be errors.
    failures: usize,
    authorization: Option<&'static str>,
}

pub(crate) struct TestRegistry {
    state: Arc<Mutex<State>>,
    pub(crate) address: String,
    serving: JoinHandle<()>,
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl TestRegistry {
    pub(crate) async fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let answering = Arc::clone(&state);
        let app = Router::new().fallback(move |request: Request| {
            let answer = answer(&mut answering.lock().unwrap(), &request);
            async move { answer }
        });
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { state, address, serving }
    }

    /// The id of a new version of a subject.
    pub(crate) fn register(&self, subject: &str, kind: &'static str, text: &str, references: Value) -> u32 {
        let mut state = self.state.lock().unwrap();
        state.schemas.push((subject.to_owned(), kind, text.to_owned(), references));
        u32::try_from(state.schemas.len()).unwrap()
    }

    /// Has the next answers be errors.
    pub(crate) fn fail(&self, times: usize) {
        self.state.lock().unwrap().failures = times;
    }

    /// How many answers are still to be errors.
    #[allow(dead_code)]
    pub(crate) fn failures(&self) -> usize {
        self.state.lock().unwrap().failures
    }

    #[allow(dead_code)]
    pub(crate) fn demand(&self, authorization: &'static str) {
        self.state.lock().unwrap().authorization = Some(authorization);
    }

    /// What it was asked for, from the last time on.
    #[allow(dead_code)]
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }
}

fn answer(state: &mut State, request: &Request) -> Response {
    let path = request.uri().path();
    state.asked.push(path.to_owned());
    if state.failures > 0 {
        state.failures -= 1;
        return (StatusCode::SERVICE_UNAVAILABLE, "out to lunch").into_response();
    }
    let authorization = request.headers().get("authorization").map(|value| value.to_str().unwrap());
    if state.authorization.is_some() && authorization != state.authorization {
        return error(StatusCode::UNAUTHORIZED, 40101, "Unauthorized");
    }
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let found = match parts[..] {
        ["schemas", "ids", id] => {
            let at = id.parse::<usize>().unwrap().checked_sub(1);
            at.and_then(|at| state.schemas.get(at)).ok_or((40403, "Schema not found"))
        }
        ["subjects", subject, "versions", version] => {
            let versions: Vec<_> = state.schemas.iter().filter(|schema| schema.0 == subject).collect();
            match (versions.last(), version.parse::<usize>()) {
                (None, _) => Err((40401, "Subject not found")),
                (Some(last), Err(_)) => Ok(*last),
                (Some(_), Ok(version)) => {
                    versions.get(version - 1).copied().ok_or((40402, "Version not found"))
                }
            }
        }
        _ => return error(StatusCode::NOT_FOUND, 404, "HTTP 404 Not Found"),
    };
    match found {
        Ok((_, kind, text, references)) => {
            let mut schema = json!({ "schema": text, "references": references });
            // As registries leave it out where it is Avro.
            if *kind != "AVRO" {
                schema["schemaType"] = json!(kind);
            }
            schema.to_string().into_response()
        }
        Err((code, message)) => error(StatusCode::NOT_FOUND, code, message),
    }
}

fn error(status: StatusCode, code: i64, message: &str) -> Response {
    (status, json!({ "error_code": code, "message": message }).to_string()).into_response()
}
