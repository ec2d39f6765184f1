//! Stories of client quotas: what is refused, what is asked for, and which one holds.

use expect_test::{Expect, expect};
use wire::{ErrorCode, Str};

use super::testing::{commit, tell, tell_refusal};
use super::{AlterQuotas, ClientQuota, Image, Mode, QuotaFilter, QuotaKey, QuotaSharing, Refusal};

/// `user=a client-id=*: producer_byte_rate=5 consumer_byte_rate=-`: a star is the default, a dash removes.
fn alter(text: &str) -> AlterQuotas {
    let (entity, ops) = text.split_once(": ").unwrap();
    let split = |part: &str| {
        let (key, value) = part.split_once('=').unwrap();
        (Str::copy_from(key), Str::copy_from(value))
    };
    let named = |(kind, name): (Str, Str)| (kind, (&*name != "*").then_some(name));
    let op = |(key, value): (Str, Str)| (key, (&*value != "-").then(|| value.parse().unwrap()));
    AlterQuotas {
        entity: entity.split_whitespace().map(split).map(named).collect(),
        ops: ops.split_whitespace().map(split).map(op).collect(),
    }
}

fn changed(image: &mut Image, changes: &[&str]) -> String {
    let changes: Vec<AlterQuotas> = changes.iter().map(|change| alter(change)).collect();
    let decision = image.alter_quotas(&changes, Mode::Apply);
    let records = decision.records.len();
    let answers = commit(image, decision).into_iter();
    let answers = answers
        .map(|answer| answer.map_or_else(|refusal| tell_refusal(&refusal), |()| "ok".to_owned()) + "\n");
    format!("{}{records} records\n{}", answers.collect::<String>(), tell(image))
}

fn image(changes: &[&str]) -> Image {
    let mut image = Image::default();
    changed(&mut image, changes);
    image
}

fn check(changes: &[&str], expected: Expect) {
    expected.assert_eq(&changed(&mut Image::default(), changes));
}

#[test]
fn quotas_are_set_changed_and_removed_key_by_key() {
    let mut image =
        image(&["user=a: producer_byte_rate=5 consumer_byte_rate=6", "ip=*: connection_creation_rate=7"]);
    let changes = [
        "user=a: producer_byte_rate=5 consumer_byte_rate=- request_percentage=12.5",
        "ip=*: connection_creation_rate=-",
        "ip=*: ",
        "user=a client-id=*: controller_mutation_rate=0.5",
    ];
    expect![[r#"
        ok
        INVALID_REQUEST: Each entity must appear at most once.
        INVALID_REQUEST: Each entity must appear at most once.
        ok
        3 records
        quota ip=(default) connection_creation_rate=7
        quota user=a producer_byte_rate=5 request_percentage=12.5
        quota user=a client-id=(default) controller_mutation_rate=0.5
    "#]]
    .assert_eq(&changed(&mut image, &changes));
    let before = image.clone();
    let decision = before.alter_quotas(&[alter("user=a: producer_byte_rate=9")], Mode::ValidateOnly);
    assert_eq!((decision.records.len(), decision.reply), (0, vec![Ok(())]));
}

#[test]
fn who_and_what_makes_no_sense_is_refused() {
    check(
        &[
            ": producer_byte_rate=5",
            "host=a: producer_byte_rate=5",
            "user=a user=b: producer_byte_rate=5",
            "user=: producer_byte_rate=5",
            "ip=1.2.3.4 user=a: connection_creation_rate=5",
            "ip=nowhere: connection_creation_rate=5",
            "ip=::1: producer_byte_rate=5",
            "user=a: connection_creation_rate=5",
            "user=b: producer_byte_rate=5 producer_byte_rate=6",
            "user=c: gold=-",
        ],
        expect![[r#"
            INVALID_REQUEST: Invalid empty client quota entity
            INVALID_REQUEST: Unhandled client quota entity type: host
            INVALID_REQUEST: Invalid client quota entity, duplicate entity entry user
            INVALID_REQUEST: Empty user not supported
            INVALID_REQUEST: Invalid quota entity combination, IP entity should not be combined with User or ClientId
            INVALID_REQUEST: nowhere is not a valid IP address.
            INVALID_REQUEST: Invalid configuration key producer_byte_rate, allowed are connection_creation_rate
            INVALID_REQUEST: Invalid configuration key connection_creation_rate, allowed are producer_byte_rate, consumer_byte_rate, request_percentage, controller_mutation_rate
            INVALID_REQUEST: Duplicate quota key producer_byte_rate not updating quota for this entity
            INVALID_REQUEST: Invalid configuration key gold, allowed are producer_byte_rate, consumer_byte_rate, request_percentage, controller_mutation_rate
            0 records
        "#]],
    );
}

#[test]
fn numbers_that_no_quota_can_be_are_refused_and_change_nothing_else_of_the_entity() {
    check(
        &[
            "user=a: consumer_byte_rate=5 producer_byte_rate=0",
            "user=b: producer_byte_rate=-1",
            "user=c: producer_byte_rate=NaN",
            "user=d: producer_byte_rate=1.5",
            "user=e: producer_byte_rate=1e19",
            "user=f: request_percentage=inf",
            "ip=1.2.3.4: connection_creation_rate=3000000000",
            "user=g: producer_byte_rate=9223372036854775807",
        ],
        expect![[r#"
            INVALID_REQUEST: Quota producer_byte_rate must be greater than 0
            INVALID_REQUEST: Quota producer_byte_rate must be greater than 0
            INVALID_REQUEST: Quota producer_byte_rate must be greater than 0
            INVALID_REQUEST: producer_byte_rate cannot be a fractional value.
            INVALID_REQUEST: Proposed value for producer_byte_rate is too large for a LONG.
            INVALID_REQUEST: Quota request_percentage must be finite
            INVALID_REQUEST: Proposed value for connection_creation_rate is too large for an INT.
            ok
            1 records
            quota user=g producer_byte_rate=9223372036854776000
        "#]],
    );
}

#[test]
fn the_most_specific_quota_holds() {
    let levels = [
        "client-id=*: producer_byte_rate=1",
        "client-id=c: producer_byte_rate=2",
        "user=*: producer_byte_rate=3",
        "user=* client-id=*: producer_byte_rate=4",
        "user=* client-id=c: producer_byte_rate=5",
        "user=u: producer_byte_rate=6",
        "user=u client-id=*: producer_byte_rate=7",
        "user=u client-id=c: producer_byte_rate=8",
    ];
    let mut image = Image::default();
    let find = |image: &Image, key| image.client_quota(key, "u", "c");
    assert_eq!(find(&image, QuotaKey::ProducerByteRate), None);
    use QuotaSharing::{ClientId, User, UserAndClientId};
    let sharing =
        [ClientId, ClientId, User, UserAndClientId, UserAndClientId, User, UserAndClientId, UserAndClientId];
    for (at, (level, sharing)) in levels.iter().zip(sharing).enumerate() {
        changed(&mut image, &[level]);
        let limit = (at + 1) as f64;
        assert_eq!(find(&image, QuotaKey::ProducerByteRate), Some(ClientQuota { limit, sharing }), "{level}");
    }
    assert_eq!(find(&image, QuotaKey::ConsumerByteRate), None, "each key is found by itself");
    changed(&mut image, &["client-id=*: consumer_byte_rate=9"]);
    let found = find(&image, QuotaKey::ConsumerByteRate);
    assert_eq!(found, Some(ClientQuota { limit: 9.0, sharing: ClientId }));
}

#[test]
fn addresses_have_quotas_however_they_are_written() {
    let image =
        image(&["ip=*: connection_creation_rate=1", "ip=::ffff:10.0.0.1: connection_creation_rate=2"]);
    let (default, named) = image.ip_quotas();
    assert_eq!(default, Some(1.0));
    assert_eq!(named.get(&"10.0.0.1".parse().unwrap()), Some(&2.0));
    assert!(!image.has_client_quotas());
}

#[test]
fn a_filter_selects_by_type_and_name() {
    let image = image(&[
        "user=a: producer_byte_rate=1",
        "user=*: producer_byte_rate=2",
        "user=a client-id=c: producer_byte_rate=3",
        "client-id=c: producer_byte_rate=4",
        "ip=1.2.3.4: connection_creation_rate=5",
    ]);
    type Component = (&'static str, i8, Option<&'static str>);
    let select = |components: &[Component], is_strict: bool| -> Result<Vec<f64>, Refusal> {
        let owned: Vec<(Str, i8, Option<Str>)> = components
            .iter()
            .map(|(kind, match_type, name)| (Str::from(*kind), *match_type, name.map(Str::from)))
            .collect();
        let parts = owned.iter().map(|(kind, match_type, name)| (kind, *match_type, name.as_ref()));
        let filter = QuotaFilter::new(parts, is_strict)?;
        Ok(image.quotas(&filter).map(|(_, quotas)| quotas[0].1).collect())
    };
    assert_eq!(select(&[], false), Ok(vec![5.0, 4.0, 2.0, 1.0, 3.0]));
    assert_eq!(select(&[], true), Ok(vec![]));
    assert_eq!(select(&[("user", 0, Some("a"))], false), Ok(vec![1.0, 3.0]));
    assert_eq!(select(&[("user", 0, Some("a"))], true), Ok(vec![1.0]));
    assert_eq!(select(&[("user", 1, None)], false), Ok(vec![2.0]));
    assert_eq!(select(&[("user", 2, None)], true), Ok(vec![2.0, 1.0]));
    assert_eq!(select(&[("user", 2, None), ("client-id", 2, None)], true), Ok(vec![3.0]));
    let refused = |components: &[Component]| ErrorCode::from(&select(components, false).unwrap_err());
    assert_eq!(refused(&[("host", 2, None)]), ErrorCode::UNSUPPORTED_VERSION);
    for nonsense in [
        vec![("", 2, None)],
        vec![("user", 0, None)],
        vec![("user", 1, Some("a"))],
        vec![("user", 2, Some("a"))],
        vec![("user", 3, None)],
        vec![("user", 2, None), ("user", 1, None)],
        vec![("user", 2, None), ("ip", 2, None)],
    ] {
        assert_eq!(refused(&nonsense), ErrorCode::INVALID_REQUEST, "{nonsense:?}");
    }
}

#[test]
fn a_snapshot_keeps_quotas() {
    let image = image(&["user=* client-id=c: producer_byte_rate=3", "ip=*: connection_creation_rate=5"]);
    let mut copy = Image::default();
    for record in image.snapshot_records() {
        copy.apply(&record);
    }
    assert_eq!(copy, image);
}
