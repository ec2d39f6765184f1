//! Quotas of users, client ids and addresses.

use wire::Str;
use wire::messages::alter_client_quotas::{AlterClientQuotasRequest, EntityData, EntryData, OpData};
use wire::messages::describe_client_quotas::{ComponentData, DescribeClientQuotasRequest};

use super::{Admin, Execution, outcome};
use crate::error::Error;

/// Whose quota it is: types (`user`, `client-id`, `ip`) and names; without a name, the default of that type.
pub type QuotaEntity = Vec<(Str, Option<Str>)>;

/// What an entity has to be for a quota to be described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuotaMatch {
    /// The one of this name.
    Named(Str),
    /// The default.
    Default,
    /// Anybody, the default too.
    Any,
}

/// The quotas of one entity.
#[derive(Debug, Clone, PartialEq)]
pub struct EntityQuotas {
    /// Whose they are.
    pub entity: QuotaEntity,
    /// Key and value.
    pub quotas: Vec<(Str, f64)>,
}

impl Admin {
    /// Quotas of entities of these types. A strict filter leaves out those that have other types, too.
    pub async fn describe_quotas(
        &self,
        filter: &[(Str, QuotaMatch)],
        is_strict: bool,
    ) -> Result<Vec<EntityQuotas>, Error> {
        let doing = "describing quotas".to_owned();
        let component = |(kind, wanted): &(Str, QuotaMatch)| {
            let (match_type, name) = match wanted {
                QuotaMatch::Named(name) => (0, Some(name.clone())),
                QuotaMatch::Default => (1, None),
                QuotaMatch::Any => (2, None),
            };
            ComponentData { entity_type: kind.clone(), match_type, r#match: name }
        };
        let components = filter.iter().map(component).collect();
        let request = DescribeClientQuotasRequest { components, strict: is_strict };
        let response =
            self.cluster.retrying(&doing, || async { self.cluster.call_any(request.clone()).await }).await?;
        outcome(response.error_code, doing, response.error_message.as_ref(), ())?;
        let entries = response.entries.unwrap_or_default().into_iter().map(|entry| EntityQuotas {
            entity: entry.entity.into_iter().map(|part| (part.entity_type, part.entity_name)).collect(),
            quotas: entry.values.into_iter().map(|value| (value.key, value.value)).collect(),
        });
        Ok(entries.collect())
    }

    /// Sets quotas of an entity, and removes those without a value: all of them or, if one cannot be, none.
    pub async fn alter_quotas(
        &self,
        entity: &QuotaEntity,
        changes: &[(Str, Option<f64>)],
        execution: Execution,
    ) -> Result<(), Error> {
        let doing = "changing quotas".to_owned();
        let part = |(kind, name): &(Str, Option<Str>)| EntityData {
            entity_type: kind.clone(),
            entity_name: name.clone(),
        };
        let op = |(key, value): &(Str, Option<f64>)| OpData {
            key: key.clone(),
            value: value.unwrap_or_default(),
            remove: value.is_none(),
        };
        let entry =
            EntryData { entity: entity.iter().map(part).collect(), ops: changes.iter().map(op).collect() };
        let validate_only = execution == Execution::Validate;
        let request = AlterClientQuotasRequest { entries: vec![entry], validate_only };
        let response = self
            .ask_controller(&doing, request, |response| {
                response.entries.iter().map(|entry| entry.error_code).collect()
            })
            .await?;
        for entry in response.entries {
            outcome(entry.error_code, doing.clone(), entry.error_message.as_ref(), ())?;
        }
        Ok(())
    }
}
