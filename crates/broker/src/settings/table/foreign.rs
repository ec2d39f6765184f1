//! Kafka's keys that have no row: what happens when a file brings one along.
//! A key that only tunes machinery which Ottla does not have is accepted with a notice. A key whose silent loss would
//! open what its writer meant to close refuses the start. Every key of Kafka 4.3 is either here or in the table; a test
//! holds the list.

/// What becomes of a key that Ottla has no use for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::settings) enum Foreign {
    /// Accepted; the reason goes into a notice.
    NoEffect(&'static str),
    /// Refused unless its value is one of these, which change nothing.
    RefusedUnless(&'static [&'static str], &'static str),
}

use Foreign::{NoEffect, RefusedUnless};

const JVM: &str = "it loads Java classes";
const METRICS: &str = "metrics are read from /metrics on admin.listener";
const PURGATORY: &str = "waiting requests are dropped when they end, nothing is purged";
const THREADS: &str = "these tasks share the runtime's threads";
const TLS: &str = "listeners are PLAINTEXT in this version";
const SASL: &str = "listeners are PLAINTEXT in this version";
const TIERED: &str = "there is no tiered storage in this version";
const CONSUMER_GROUPS: &str = "assignments are computed when they change, and expressions when topics do";
const SHARE: &str = "share groups do without it";
const STREAMS: &str = "streams groups are not available in this version";
const QUOTAS: &str = "replication is throttled by its rates alone";
const METADATA: &str = "the metadata log takes care of itself";
const ZOOKEEPER: &str = "there is no ZooKeeper";
const ASKED_AGAIN: &str = "the coordinator is asked again every 5 ms for half a second";
const ON_TIME: &str = "what is due is done when it is due";
const OLD: &str = "Kafka itself has dropped it";
const ACCESS: &str =
    "authorization is not available in this version, and without it everybody may do everything";
const POLICY: &str = "policies are Java classes; ignoring one would allow what it forbids";

/// Keys by exact name; before prefixes.
const KEYS: &[(&str, Foreign)] = &[
    ("add.partitions.to.txn.retry.backoff.max.ms", NoEffect(ASKED_AGAIN)),
    ("add.partitions.to.txn.retry.backoff.ms", NoEffect(ASKED_AGAIN)),
    ("alter.config.policy.class.name", RefusedUnless(&[""], POLICY)),
    ("alter.log.dirs.replication.quota.window.num", NoEffect(QUOTAS)),
    ("alter.log.dirs.replication.quota.window.size.seconds", NoEffect(QUOTAS)),
    ("authorizer.class.name", RefusedUnless(&[""], ACCESS)),
    ("background.threads", NoEffect(THREADS)),
    ("client.quota.callback.class", NoEffect(JVM)),
    ("connection.failed.authentication.delay.ms", NoEffect(SASL)),
    ("connections.max.reauth.ms", NoEffect(SASL)),
    ("controller.socket.timeout.ms", NoEffect(METADATA)),
    ("cordoned.log.dirs", NoEffect("directories cannot be cordoned in this version")),
    ("create.topic.policy.class.name", RefusedUnless(&[""], POLICY)),
    ("delete.records.purgatory.purge.interval.requests", NoEffect(PURGATORY)),
    ("early.start.listeners", NoEffect("all listeners open when the broker is ready")),
    ("fetch.purgatory.purge.interval.requests", NoEffect(PURGATORY)),
    ("follower.fetch.last.tiered.offset.enable", NoEffect(TIERED)),
    (
        "group.coordinator.append.linger.ms",
        NoEffect("coordinator records join the flush rounds of all other records"),
    ),
    ("group.coordinator.background.threads", NoEffect(THREADS)),
    ("group.coordinator.cached.buffer.max.bytes", NoEffect("the coordinator keeps no buffers")),
    ("group.coordinator.threads", NoEffect(THREADS)),
    ("initial.broker.registration.timeout.ms", NoEffect(METADATA)),
    ("inter.broker.protocol.version", NoEffect(OLD)),
    ("log.cleaner.io.buffer.load.factor", NoEffect("the compaction map sizes itself")),
    ("log.cleaner.io.buffer.size", NoEffect("compaction reads whole batches")),
    ("log.cleaner.io.max.bytes.per.second", NoEffect("compaction is not throttled in this version")),
    ("log.dir.failure.timeout.ms", NoEffect(METADATA)),
    ("log.initial.task.delay.ms", NoEffect("background work starts when the broker is ready")),
    ("log.message.downconversion.enable", NoEffect(OLD)),
    ("log.message.format.version", NoEffect(OLD)),
    ("log.message.timestamp.difference.max.ms", NoEffect(OLD)),
    ("num.replica.alter.log.dirs.threads", NoEffect(THREADS)),
    ("offsets.commit.required.acks", NoEffect(OLD)),
    ("offsets.topic.compression.codec", NoEffect("offsets are stored uncompressed")),
    ("password.encoder.secret", NoEffect(ZOOKEEPER)),
    ("principal.builder.class", NoEffect(JVM)),
    ("producer.purgatory.purge.interval.requests", NoEffect(PURGATORY)),
    ("reserved.broker.max.id", NoEffect(OLD)),
    (
        "security.inter.broker.protocol",
        RefusedUnless(&["PLAINTEXT"], "only PLAINTEXT is available in this version"),
    ),
    ("security.providers", NoEffect(JVM)),
    ("server.max.startup.time.ms", NoEffect("a start has no deadline")),
    ("share.fetch.purgatory.purge.interval.requests", NoEffect(SHARE)),
    ("socket.connection.setup.timeout.max.ms", NoEffect("replication is not available in this version")),
    ("socket.connection.setup.timeout.ms", NoEffect("replication is not available in this version")),
    ("super.users", NoEffect("without authorization everybody may do everything")),
    ("allow.everyone.if.no.acl.found", NoEffect("without authorization everybody may do everything")),
    ("transaction.abort.timed.out.transaction.cleanup.interval.ms", NoEffect(ON_TIME)),
    ("transaction.remove.expired.transaction.cleanup.interval.ms", NoEffect("it is an hour")),
    ("transaction.state.log.load.buffer.size", NoEffect("it is 1 MiB")),
    ("transaction.two.phase.commit.enable", NoEffect("there is no two-phase commit")),
    ("unclean.leader.election.interval.ms", NoEffect("replication is not available in this version")),
    ("unstable.api.versions.enable", NoEffect("only stable versions are ever advertised")),
    ("unstable.feature.versions.enable", NoEffect("only stable features are ever advertised")),
];

/// Keys by prefix.
const PREFIXES: &[(&str, Foreign)] = &[
    ("config.providers", NoEffect(JVM)),
    ("confluent.", NoEffect("it belongs to another product")),
    ("controller.performance.", NoEffect(METADATA)),
    ("controller.quorum.", NoEffect(METADATA)),
    ("delegation.token.", NoEffect(SASL)),
    ("group.consumer.", NoEffect(CONSUMER_GROUPS)),
    ("group.share.", NoEffect(SHARE)),
    ("group.streams.", NoEffect(STREAMS)),
    ("internal.metadata.", NoEffect(METADATA)),
    ("kafka.metrics.", NoEffect(METRICS)),
    (
        "listener.name.",
        NoEffect(
            "settings of a single listener are about TLS and SASL, which this version does not have, but for max.connections and max.connection.creation.rate",
        ),
    ),
    ("metadata.", NoEffect(METADATA)),
    ("metric.reporters", NoEffect(METRICS)),
    ("metrics.", NoEffect(METRICS)),
    ("remote.", NoEffect(TIERED)),
    ("replication.quota.", NoEffect(QUOTAS)),
    ("sasl.", NoEffect(SASL)),
    ("share.coordinator.", NoEffect(SHARE)),
    ("ssl.", NoEffect(TLS)),
    ("zookeeper.", NoEffect(ZOOKEEPER)),
];

/// What becomes of this key, if Kafka knows it and the table does not.
pub(in crate::settings) fn foreign(key: &str) -> Option<Foreign> {
    let exact = KEYS.iter().find(|(name, _)| *name == key);
    exact.or_else(|| PREFIXES.iter().find(|(prefix, _)| key.starts_with(prefix))).map(|(_, foreign)| *foreign)
}

/// Keys and prefixes (as `prefix*`) with what becomes of them, for the reference page.
pub(in crate::settings) fn listed() -> impl Iterator<Item = (String, Foreign)> {
    let exact = KEYS.iter().map(|(key, foreign)| ((*key).to_owned(), *foreign));
    exact.chain(PREFIXES.iter().map(|(prefix, foreign)| (format!("{prefix}*"), *foreign)))
}
