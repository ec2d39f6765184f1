//! S3, and stores that answer like it, as [`Objects`]: requests of `object_store` over connections of hyper.
//!
//! The sink writes and reads files step by step, so each request is waited for here; it is carried out by a thread of the client's own,
//! so that whoever waits may be a task. A request whose answer does not come is asked again, a put of a new object too: that it is
//! there then may be its own doing, which [`Bucket`](crate::bucket::Bucket) and those above it allow for. Whoever is to end gives
//! up what it waits for: that may be carried out all the same. No error repeats a secret.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as TcpConnector;
use hyper_util::rt::TokioExecutor;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
    HttpResponseBody, HttpService,
};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions, PutPayload, RetryConfig,
};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use tokio::runtime::{Builder, Handle, Runtime, RuntimeFlavor};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::bucket::{Depth, Objects, Put};

/// For a connection to be made.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// For an answer to begin, and for each piece of it to come; besides the time that what is sent may take.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// A line slower than this is taken for one that is cut.
const BYTES_PER_SECOND_MIN: u64 = 256 << 10;
/// How long after it was asked first a request is asked again that fails, or is not answered.
const RETRY_MAX: Duration = Duration::from_secs(45);
/// How often a put is asked again that came at the same moment as another.
const CONFLICTS_MAX: usize = 10;
const CONFLICT_PAUSE: Duration = Duration::from_millis(100);

/// Where a bucket is, and who asks.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct S3Settings {
    /// Its name.
    pub bucket: String,
    /// The store's address, if it is not Amazon's.
    pub endpoint: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// Whether the bucket's name comes in the path, and not in the host's name.
    pub is_path_style: bool,
    /// The credentials; the environment has them otherwise.
    pub access_key_id: Option<String>,
    /// The secret that goes with them.
    pub secret_access_key: Option<String>,
    /// What else goes with them, if they are for a while only.
    pub session_token: Option<String>,
    /// Where files are written before they are put, if not where the system has such files.
    pub spool: Option<std::path::PathBuf>,
}

impl fmt::Debug for S3Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Settings")
            .field("bucket", &self.bucket)
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("is_path_style", &self.is_path_style)
            .finish_non_exhaustive()
    }
}

/// What somebody has to be allowed, in words and as Amazon calls it.
const PUT: &str = "put objects (s3:PutObject)";
const GET: &str = "get objects (s3:GetObject)";
const LIST: &str = "list objects (s3:ListBucket)";
const DELETE: &str = "delete objects (s3:DeleteObject)";

const CREDENTIALS: [AmazonS3ConfigKey; 3] =
    [AmazonS3ConfigKey::AccessKeyId, AmazonS3ConfigKey::SecretAccessKey, AmazonS3ConfigKey::Token];

/// A bucket's client.
pub(crate) struct S3 {
    store: AmazonS3,
    bucket: String,
    /// Where it is, as it is told.
    endpoint: String,
    given_up: watch::Sender<bool>,
    /// There until it is dropped.
    runtime: Option<Runtime>,
}

impl S3 {
    /// Nothing is asked yet.
    pub(crate) fn open(settings: &S3Settings) -> io::Result<Self> {
        let mut builder = AmazonS3Builder::new();
        for (name, value) in std::env::vars_os() {
            let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else { continue };
            let key = name.to_ascii_lowercase().parse().ok().filter(|_| name.starts_with("AWS_"));
            // Not half of the declaration's credentials and half of the environment's.
            let is_wanted =
                |key: &AmazonS3ConfigKey| settings.access_key_id.is_none() || !CREDENTIALS.contains(key);
            if let Some(key) = key.filter(is_wanted) {
                builder = builder.with_config(key, value);
            }
        }
        builder = builder
            .with_bucket_name(&settings.bucket)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_disable_bulk_delete(true)
            .with_retry(RetryConfig {
                backoff: BackoffConfig { max_backoff: Duration::from_secs(2), ..BackoffConfig::default() },
                max_retries: usize::MAX,
                retry_timeout: RETRY_MAX,
            })
            .with_http_connector(Connector);
        let found = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint];
        let found = found.iter().find_map(|key| builder.get_config_value(key));
        let address = settings.endpoint.clone().or(found).map(|endpoint| match endpoint.split_once("://") {
            Some((scheme, host)) if !settings.is_path_style => {
                format!("{scheme}://{}.{host}", settings.bucket)
            }
            _ => endpoint,
        });
        let declared = [
            (AmazonS3ConfigKey::Endpoint, &address),
            (AmazonS3ConfigKey::S3Endpoint, &address),
            (AmazonS3ConfigKey::Region, &settings.region),
            (AmazonS3ConfigKey::AccessKeyId, &settings.access_key_id),
            (AmazonS3ConfigKey::SecretAccessKey, &settings.secret_access_key),
            (AmazonS3ConfigKey::Token, &settings.session_token),
        ];
        for (key, value) in declared {
            if let Some(value) = value {
                builder = builder.with_config(key, value);
            }
        }
        builder = builder.with_virtual_hosted_style_request(!settings.is_path_style);
        let endpoint = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint];
        let endpoint = endpoint.iter().find_map(|key| builder.get_config_value(key));
        let store = builder.build().map_err(|error| io::Error::other(deepest(&error).to_string()))?;
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("s3").enable_all().build()?;
        let endpoint = endpoint.unwrap_or_else(|| "Amazon's address".to_owned());
        let (bucket, given_up) = (settings.bucket.clone(), watch::Sender::new(false));
        Ok(Self { store, bucket, endpoint, given_up, runtime: Some(runtime) })
    }

    /// Carries out a request and waits for it. Other tasks of the caller's go on meanwhile, if it has more than one thread.
    fn wait<T: Send + 'static>(
        &self,
        permission: &str,
        request: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> io::Result<T> {
        let (tell, told) = sync_channel(1);
        let runtime = self.runtime.as_ref().expect("it is there until it is dropped");
        let mut given_up = self.given_up.subscribe();
        let given_up = async move { given_up.wait_for(|is_given_up| *is_given_up).await.map(drop) };
        // Whoever waits has not gone away.
        runtime.spawn(async move {
            let answer = tokio::select! {
                biased;
                _ = given_up => None,
                answer = request => Some(answer),
            };
            tell.send(answer)
        });
        let answer = || told.recv();
        let answer = match Handle::try_current().map(|handle| handle.runtime_flavor()) {
            Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(answer),
            _ => answer(),
        };
        let answer = answer.map_err(|_| io::Error::other("the client of the object store has failed"))?;
        match answer {
            Some(answer) => answer.map_err(|error| self.told(permission, &error)),
            None => Err(io::Error::new(
                ErrorKind::TimedOut,
                format!(
                    "{} is waited for no longer, as the run is to end: the next one finds what was done",
                    self.endpoint
                ),
            )),
        }
    }

    /// What went wrong, in words that are about this bucket, and without what was signed.
    fn told(&self, permission: &str, error: &Error) -> io::Error {
        let deepest = deepest(error).to_string();
        let (code, message) = (element(&deepest, "Code"), element(&deepest, "Message"));
        let kind = match error {
            Error::NotFound { .. } => ErrorKind::NotFound,
            Error::AlreadyExists { .. } => ErrorKind::AlreadyExists,
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => ErrorKind::PermissionDenied,
            // Of a listing there is no more said.
            _ if code == Some("AccessDenied") => ErrorKind::PermissionDenied,
            _ => ErrorKind::Other,
        };
        let (bucket, endpoint) = (&self.bucket, &self.endpoint);
        let said = match (code, message) {
            (Some(code), Some(message)) => format!("{code}, {message}"),
            (Some(code), None) => code.to_owned(),
            (None, _) if kind == ErrorKind::NotFound => "there is no such object".to_owned(),
            (None, _) => deepest.split('\n').next().unwrap_or_default().to_owned(),
        };
        let (kind, problem) = match (code, kind) {
            // Not as an object is not there, which is no error to everybody.
            (Some("NoSuchBucket"), _) => {
                (ErrorKind::Other, format!("there is no bucket {bucket} at {endpoint}"))
            }
            (Some("InvalidAccessKeyId"), _) => {
                (kind, format!("{endpoint} does not know this access key: {said}"))
            }
            (Some("SignatureDoesNotMatch"), _) => (
                kind,
                format!("{endpoint} knows the access key, and the secret key is not the one of it: {said}"),
            ),
            (_, ErrorKind::PermissionDenied) => {
                (kind, format!("{endpoint} does not allow to {permission} in bucket {bucket}: {said}"))
            }
            (_, ErrorKind::Other) if error_text(error).contains(INSTANCE_METADATA) => (
                kind,
                format!(
                    "there are no credentials for bucket {bucket}: neither in the declaration, nor in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, nor from this machine's cloud ({said})"
                ),
            ),
            (_, ErrorKind::Other) => (kind, format!("bucket {bucket} at {endpoint}: {said}")),
            _ => (kind, said),
        };
        io::Error::new(kind, problem)
    }
}

/// Where a machine of Amazon's asks for credentials.
const INSTANCE_METADATA: &str = "169.254.";

impl Drop for S3 {
    fn drop(&mut self) {
        // It may be a task that drops it, and a task must not wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What is behind all the others.
fn deepest<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

/// All that an error and those behind it say.
fn error_text(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut error = error;
    while let Some(source) = error.source() {
        text.push_str(&source.to_string());
        error = source;
    }
    text
}

/// What stands in an element of XML.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(value, _)| value.trim())
}

fn path(key: &str) -> io::Result<Path> {
    Path::parse(key).map_err(|error| io::Error::new(ErrorKind::InvalidInput, error))
}

/// Whether another put of the same object came at the same moment, so that neither may be there yet.
fn is_conflict(error: &Error) -> bool {
    matches!(error, Error::AlreadyExists { .. })
        && matches!(
            element(&deepest(error).to_string(), "Code"),
            Some("ConditionalRequestConflict" | "OperationAborted")
        )
}

impl Objects for S3 {
    fn put(&self, key: &str, content: Bytes, put: Put) -> io::Result<()> {
        let (store, path) = (self.store.clone(), path(key)?);
        let mode = match put {
            Put::New => PutMode::Create,
            Put::Over => PutMode::Overwrite,
        };
        self.wait(PUT, async move {
            for _ in 1..CONFLICTS_MAX {
                let payload = PutPayload::from_bytes(content.clone());
                match store.put_opts(&path, payload, PutOptions::from(mode.clone())).await {
                    Err(error) if is_conflict(&error) => sleep(CONFLICT_PAUSE).await,
                    put => return put.map(drop),
                }
            }
            match store.put_opts(&path, PutPayload::from_bytes(content), PutOptions::from(mode)).await {
                // It does not say that the object is there.
                Err(error) if is_conflict(&error) => {
                    Err(Error::Generic { store: "S3", source: Box::new(error) })
                }
                put => put.map(drop),
            }
        })
    }

    fn get(&self, key: &str) -> io::Result<Vec<u8>> {
        let (store, path) = (self.store.clone(), path(key)?);
        let bytes = self.wait(GET, async move { store.get(&path).await?.bytes().await })?;
        Ok(bytes.into())
    }

    fn get_end(&self, key: &str, bytes_max: usize) -> io::Result<(u64, Vec<u8>)> {
        let (store, path) = (self.store.clone(), path(key)?);
        let options = GetOptions { range: Some(GetRange::Suffix(bytes_max as u64)), ..GetOptions::default() };
        let (len, bytes) = self.wait(GET, async move {
            let found = store.get_opts(&path, options).await?;
            Ok((found.meta.size, found.bytes().await?))
        })?;
        Ok((len, bytes.into()))
    }

    fn list(&self, prefix: &str, depth: Depth) -> io::Result<Vec<String>> {
        let (store, prefix) = (self.store.clone(), prefix.to_owned());
        let delimiter = match depth {
            Depth::One => Some("/".into()),
            Depth::All => None,
        };
        self.wait(LIST, async move {
            let mut keys = Vec::new();
            let mut page_token = None;
            loop {
                let delimiter = delimiter.clone();
                let options =
                    PaginatedListOptions { delimiter, page_token, ..PaginatedListOptions::default() };
                let page = store.list_paginated(Some(&prefix), options).await?;
                let key = |path: &Path| unworded(path.as_ref());
                let objects = page.result.objects.iter().map(|object| &object.location);
                keys.extend(objects.map(|path| key(path).unwrap_or_else(|| path.to_string())));
                let above = page.result.common_prefixes.iter();
                keys.extend(above.map(|path| key(path).unwrap_or_else(|| format!("{path}/"))));
                page_token = page.page_token;
                if page_token.is_none() {
                    return Ok(keys);
                }
            }
        })
    }

    fn delete(&self, key: &str) -> io::Result<()> {
        let (store, path) = (self.store.clone(), path(key)?);
        match self.wait(DELETE, async move { store.delete(&path).await }) {
            // Some stores say so.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            deleted => deleted,
        }
    }

    fn give_up(&self) {
        self.given_up.send_replace(true);
    }
}

/// What a key begins with that stands for another. It is no text that a key of ours begins with.
const WORDED: &str = "%00";

/// A listing in which those keys are in other words of which `object_store` would make others or none, as of `a//b` and `a/../b`: it
/// would fail all of the listing.
fn legible(listing: Bytes) -> Bytes {
    let Ok(text) = std::str::from_utf8(&listing) else { return listing };
    let mut all = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        let (before, tag) = rest.split_at(at);
        all.push_str(before);
        let Some(name) = ["<Key>", "<Prefix>"].into_iter().find(|name| tag.starts_with(name)) else {
            all.push('<');
            rest = &tag[1..];
            continue;
        };
        all.push_str(name);
        let said = &tag[name.len()..];
        let (said, after) = said.split_at(said.find('<').unwrap_or(said.len()));
        let key = unescaped(said);
        // What ends with `/` is above others, or an object that is called so.
        let path = if name == "<Prefix>" { key.strip_suffix('/').unwrap_or(&key) } else { &key };
        match is_taken(path) {
            true => all.push_str(said),
            false => all.push_str(&worded(&key)),
        }
        rest = after;
    }
    all.push_str(rest);
    all.into()
}

/// Whether `object_store` takes a key, and as what it is.
fn is_taken(key: &str) -> bool {
    let is_it = |path: Path| match path.as_ref() {
        "" => key.is_empty(),
        path => key == path,
    };
    !key.starts_with(WORDED) && Path::parse(key).is_ok_and(is_it)
}

fn worded(key: &str) -> String {
    key.bytes().fold(WORDED.to_owned(), |worded, byte| format!("{worded}{byte:02x}"))
}

/// The key that stands in other words, if it does.
fn unworded(key: &str) -> Option<String> {
    let digits = key.strip_prefix(WORDED)?.as_bytes().chunks(2);
    let byte = |digits: &[u8]| match digits {
        [_, _] => u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok(),
        _ => None,
    };
    String::from_utf8(digits.map(byte).collect::<Option<_>>()?).ok()
}

/// Text of XML.
fn unescaped(text: &str) -> String {
    let mut all = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, entity)) = rest.split_once('&') {
        all.push_str(before);
        let number = |name: &str| {
            let digits = name.strip_prefix('#')?;
            let hex = digits.strip_prefix('x').map(|digits| u32::from_str_radix(digits, 16).ok());
            char::from_u32(hex.unwrap_or_else(|| digits.parse().ok())?)
        };
        let named = entity.split_once(';').and_then(|(name, after)| {
            let meant = match name {
                "amp" => '&',
                "lt" => '<',
                "gt" => '>',
                "quot" => '"',
                "apos" => '\'',
                other => number(other)?,
            };
            Some((meant, after))
        });
        let (meant, after) = named.unwrap_or(('&', entity));
        all.push(meant);
        rest = after;
    }
    all.push_str(rest);
    all
}

/// Makes the connections.
#[derive(Debug)]
struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> Result<HttpClient, Error> {
        let mut tcp = TcpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_MAX));
        tcp.set_nodelay(true);
        let provider = Arc::new(ring::default_provider());
        let native = HttpsConnectorBuilder::new().with_provider_and_native_roots(Arc::clone(&provider));
        let builder = native.or_else(|error| {
            // It may be that nothing is asked under TLS.
            tracing::debug!(%error, "no certificates of authorities are found on this machine");
            let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
            let config = config.map_err(|source| Error::Generic { store: "S3", source: Box::new(source) })?;
            let config = config.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
            Ok::<_, Error>(HttpsConnectorBuilder::new().with_tls_config(config))
        })?;
        let connector = builder.https_or_http().enable_http1().wrap_connector(tcp);
        Ok(HttpClient::new(Connections(Client::builder(TokioExecutor::new()).build(connector))))
    }
}

/// The connections.
#[derive(Debug)]
struct Connections(Client<HttpsConnector<TcpConnector>, HttpRequestBody>);

/// Nothing came for so long.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {} s", .0.as_secs())]
struct NoAnswer(Duration);

fn too_late(waited: Duration) -> HttpError {
    // As one that was lost: a timeout is asked again only where nothing is changed.
    HttpError::new(HttpErrorKind::Request, NoAnswer(waited))
}

#[async_trait]
impl HttpService for Connections {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let asked = request.uri().query().unwrap_or_default();
        let is_listing = asked.split('&').any(|asked| asked == "list-type=2");
        let sent = request.body().content_length() as u64 / BYTES_PER_SECOND_MIN;
        let wait = ANSWER_MAX + Duration::from_secs(sent);
        let answer = timeout(wait, self.0.request(request)).await.map_err(|_| too_late(wait))?;
        let answer = answer.map_err(|error| match error.is_connect() {
            true => HttpError::new(HttpErrorKind::Connect, error),
            // It may have been carried out. Everything that is asked here may be asked again.
            false => HttpError::new(HttpErrorKind::Request, error),
        })?;
        let (parts, mut body) = answer.into_parts();
        let mut bytes = BytesMut::new();
        while let Some(frame) = timeout(ANSWER_MAX, body.frame()).await.map_err(|_| too_late(ANSWER_MAX))? {
            let frame = frame.map_err(|error| HttpError::new(HttpErrorKind::Request, error))?;
            if let Ok(data) = frame.into_data() {
                bytes.extend_from_slice(&data);
            }
        }
        let bytes = if is_listing { legible(bytes.freeze()) } else { bytes.freeze() };
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, ErrorKind, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::{S3, S3Settings, element, is_taken, unescaped, unworded, worded};
    use bytes::Bytes;

    use crate::bucket::{Depth, Objects, Put};

    /// A bucket of a server that answers the same, whatever it is asked.
    fn answered(status: &'static str, body: &'static str) -> S3 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Some(format!("http://{}", listener.local_addr().unwrap()));
        thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                let mut asked = BufReader::new(connection.try_clone().unwrap()).lines().map_while(Result::ok);
                while asked.next().is_some_and(|line| !line.is_empty()) {}
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                connection.write_all((head + body).as_bytes()).unwrap();
            }
        });
        bucket_at(endpoint)
    }

    fn bucket_at(endpoint: Option<String>) -> S3 {
        let word = || Some("word".to_owned());
        let settings = S3Settings {
            bucket: "shop".to_owned(),
            endpoint,
            is_path_style: true,
            access_key_id: word(),
            secret_access_key: word(),
            ..S3Settings::default()
        };
        S3::open(&settings).unwrap()
    }

    #[test]
    fn keys_that_are_no_paths_are_listed_with_the_others() {
        let contents = |key: &str| {
            format!(
                "<Contents><Key>{key}</Key><LastModified>2024-05-01T12:00:00.000Z</LastModified><ETag>&quot;1&quot;</ETag><Size>1</Size></Contents>"
            )
        };
        let keys = ["t/a.parquet", "t//b", "t/../c", "t/d&amp;&#10;e", "t/%00f", "t/g~[1]?", "t/h/"]
            .map(contents)
            .concat();
        let body = format!(
            "<?xml version=\"1.0\"?><ListBucketResult><Name>shop</Name><Prefix>t/</Prefix><KeyCount>8</KeyCount>\
             <IsTruncated>false</IsTruncated>{keys}<CommonPrefixes><Prefix>t/x/</Prefix></CommonPrefixes>\
             <CommonPrefixes><Prefix>t//</Prefix></CommonPrefixes></ListBucketResult>"
        );
        let listed = answered("200 OK", body.leak()).list("t/", Depth::One).unwrap();
        assert_eq!(
            listed,
            ["t/a.parquet", "t//b", "t/../c", "t/d&\ne", "t/%00f", "t/g~[1]?", "t/h/", "t/x/", "t//"]
        );
    }

    #[test]
    fn a_key_in_other_words_is_the_key_again() {
        for key in ["/", "a//b", "%00", "%0041", "ü/../x"] {
            assert!(!is_taken(key) && is_taken(&worded(key)[3..]), "{key}");
            assert_eq!(unworded(&worded(key)).as_deref(), Some(key));
        }
        for other in ["a/b", "%001", "%00zz", "%00ff"] {
            assert_eq!(unworded(other), None, "{other}");
        }
        assert_eq!(unescaped("a&lt;&#x41;&#66;&nbsp;& c&"), "a<AB&nbsp;& c&");
    }

    #[test]
    fn whoever_is_to_end_waits_for_no_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let s3 = bucket_at(Some(format!("http://{}", listener.local_addr().unwrap())));
        thread::scope(|scope| {
            let put = scope.spawn(|| s3.put("t/a", Bytes::from_static(b"1"), Put::New));
            // It is asked, and does not answer.
            let _asked = listener.accept().unwrap();
            s3.give_up();
            let told = put.join().unwrap().unwrap_err();
            assert_eq!(told.kind(), ErrorKind::TimedOut);
            assert!(told.to_string().contains("is waited for no longer, as the run is to end"), "{told}");
        });
        assert_eq!(s3.get("t/a").unwrap_err().kind(), ErrorKind::TimedOut, "nor does it ask any more");
    }

    #[test]
    fn what_is_not_allowed_is_named() {
        let said = "<Error><Code>AccessDenied</Code><Message>no</Message></Error>";
        let refused = answered("403 Forbidden", said).list("t/", Depth::All).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
        let told = refused.to_string();
        assert!(
            told.ends_with("does not allow to list objects (s3:ListBucket) in bucket shop: AccessDenied, no"),
            "{told}"
        );
    }

    #[test]
    fn what_a_store_says_is_found_in_its_answer() {
        let said =
            "403 Forbidden: <Error><Code>AccessDenied</Code><Message> Access Denied. </Message></Error>";
        assert_eq!(
            (element(said, "Code"), element(said, "Message")),
            (Some("AccessDenied"), Some("Access Denied."))
        );
        assert_eq!(element(said, "Key"), None);
        assert_eq!(element("<Code>", "Code"), None);
    }

    #[test]
    fn no_secret_is_shown() {
        let settings = S3Settings {
            access_key_id: Some("an id".to_owned()),
            secret_access_key: Some("a secret".to_owned()),
            session_token: Some("a token".to_owned()),
            ..S3Settings::default()
        };
        let shown = format!("{settings:?}");
        for hidden in ["an id", "a secret", "a token"] {
            assert!(!shown.contains(hidden), "{shown}");
        }
    }
}
