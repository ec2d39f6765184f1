//! The commands there are.
//!
//! Grammar alone: each command's arguments are declared in its own module. `docs/cli.md` is printed from here
//! and checked by a test.

use clap::{Parser, Subcommand};

use crate::{
    audit, bench, cluster, completions, consume, group, node, offsets, produce, quota, sink, topic, txn,
};

/// Durable, distributed event logs that every Kafka client takes for Kafka.
#[derive(Debug, Parser)]
#[command(
    name = "ottla",
    version,
    propagate_version = true,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = "\
First message:
  ottla dev                                # a broker on 127.0.0.1:9092; leave it running
  ottla topic create greetings -p 3
  echo hello | ottla produce greetings
  ottla consume greetings -n 1

Exit codes: 0 done, 1 failed, 2 used or configured wrongly."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Dev(node::DevArgs),
    Start(node::StartArgs),
    Topic(topic::TopicArgs),
    Produce(produce::ProduceArgs),
    Consume(consume::ConsumeArgs),
    Audit(audit::AuditArgs),
    Canary(audit::canary::CanaryArgs),
    Bench(bench::BenchArgs),
    Group(group::GroupArgs),
    Offsets(offsets::OffsetsArgs),
    Txn(txn::TxnArgs),
    Quota(quota::QuotaArgs),
    Sink(sink::SinkArgs),
    Cluster(cluster::ClusterArgs),
    Completions(completions::CompletionsArgs),
    /// Print the reference page of all commands
    #[command(hide = true)]
    MarkdownHelp,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};
    use expect_test::{Expect, expect};

    use super::Cli;

    fn check(arguments: &str, expected: Expect) {
        let outcome = match Cli::try_parse_from(arguments.split_whitespace()) {
            Ok(_) => "understood".to_owned(),
            Err(error) => error.render().to_string(),
        };
        expected.assert_eq(outcome.trim_end());
    }

    #[test]
    fn the_grammar_has_no_contradictions() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_grammar_is_rpks() {
        for line in [
            "ottla topic create foo -p 3 -r 1 -c cleanup.policy=compact",
            "ottla topic describe -p foo bar",
            "ottla topic alter-config foo --set retention.ms=1000 --delete segment.ms",
            "ottla topic add-partitions foo -n 3",
            "ottla topic list -b 127.0.0.1:9092 --format json",
            "ottla topic -X brokers=a:1 list",
            "ottla produce foo -k key -H a:b -p 1 -z zstd --acks -1 -f %k_%v",
            "ottla produce foo -K :",
            "ottla consume foo bar -o -10 -n 5 -p 0,1 -f json",
            "ottla consume -r ^foo -o @-1h",
            "ottla consume foo -g readers -o end",
            "ottla audit produce foo --rate 1000 --keys 3 --duration 1m30s --field meta.audit --size 500",
            "ottla audit verify foo -o @-1h:end --run a --expect 7 --bucket 10s --format json",
            "ottla audit verify foo --live --for 10m --metrics 127.0.0.1:0",
            "ottla canary --every 100ms --for 1m --metrics :9645",
            "ottla bench produce orders --rate 10MB/s --size 1000 -p 0,1 -z lz4 --acks all -X linger.ms=20",
            "ottla bench consume orders -r 1000 -o -10",
            "ottla bench end-to-end orders --rate 100 -d 1m --format json",
            "ottla group describe -s readers",
            "ottla offsets show billing --store redis://127.0.0.1:6379/0 --format json",
            "ottla offsets verify billing --table app.positions --wait 3",
            "ottla offsets set billing orders:3 --to @2026-01-31 --dry-run --yes",
            "ottla offsets set billing orders:3 --to -5 --group readers",
            "ottla cluster info --format json",
            "ottla cluster health --wait 60",
            "ottla cluster quorum add 4",
            "ottla cluster elect --unclean orders:7 --yes",
            "ottla quota describe --any user --name client-id=a --strict",
            "ottla quota alter --name user=a --default client-id -s request_percentage=2.5 --delete producer_byte_rate --dry",
            "ottla cluster rebalance --dry-run --max-moves 5 --format json",
            "ottla cluster reassign --file - --wait 9",
            "ottla cluster reassign cancel orders:0",
            "ottla cluster decommission 3 --yes --unregister",
            "ottla dev --data-dir d --listen 127.0.0.1:0 --admin 127.0.0.1:0 --set num.partitions=3",
            "ottla start --config server.properties --set a=b --log-format json",
            "ottla sink run --config s.toml --until-end",
            "ottla sink run --line nearline",
            "ottla sink run --throttle 10MiB --metrics 127.0.0.1:0 --instance a",
            "ottla sink backfill --throttle 512KiB --until-end",
            "ottla sink pause --line offline",
            "ottla sink resume --format json",
            "ottla sink reset --to @2026-01-31 --line offline",
            "ottla sink reset --to -1000 --topic orders --partition 3 --yes",
            "ottla dev --sink sink.toml",
            "ottla sink verify --format json --line offline",
            "ottla sink repair --dry-run",
            "ottla sink expire --older-than 90d --dry-run",
            "ottla sink compact --dry-run --target-bytes 64MiB --older-than 2d",
            "ottla completions zsh",
        ] {
            check(line, expect!["understood"]);
        }
    }

    #[test]
    fn misuse_is_answered_with_the_way_out() {
        check(
            "ottla topics",
            expect![[r#"
            error: unrecognized subcommand 'topics'

              tip: a similar subcommand exists: 'topic'

            Usage: ottla <COMMAND>

            For more information, try '--help'."#]],
        );
        check(
            "ottla consume foo -o sometime",
            expect![[r#"
            error: invalid value 'sometime' for '--offset <OFFSET>': "sometime" is no offset; start, end, N, +N, -N and @TIME are, and START:END

            For more information, try '--help'."#]],
        );
        check(
            "ottla topic create foo -c retention",
            expect![[r#"
            error: invalid value 'retention' for '--topic-config <KEY=VALUE>': "retention" has no =; write KEY=VALUE

            For more information, try '--help'."#]],
        );
        check(
            "ottla consume foo -g readers -p 1",
            expect![[r#"
            error: the argument '--group <GROUP>' cannot be used with '--partitions <PARTITIONS>'

            Usage: ottla consume --group <GROUP> <TOPICS>...

            For more information, try '--help'."#]],
        );
    }
}
