//! Who may ask for what, and the batch that makes it so. Authority comes from
//! these rows and never from a message (I15).

use crate::ids::{CmkArn, JobId, OrgId};
use crate::job::Mode;
use crate::registry::{
    ACTIVATION_PREFIX, ActivationRow, CONTENTION_TRIES, CmkRole, CmkRow, ORG_ROW, OrgRow, Refusal,
    Registry, RegistryError, cmk_id, find, insert, parse, update,
};
use crate::store::{Applied, ControlTable};

impl Registry {
    /// May a job of this organization make this CMK active at all? Asked when a
    /// message comes in, before anything is recorded. Makes no KMS call (I15).
    pub async fn authorize_target(&self, org: &OrgId, to: &CmkArn) -> Result<(), RegistryError> {
        let (_, cmk_row) = self.org_and_cmk(org, to).await?;
        may_target(org, cmk_row.as_ref(), to)?;
        Ok(())
    }

    /// May a rekey do what it asks for, as the organization is now? Asked again
    /// in the batch that activates it. Makes no KMS call (I15).
    pub async fn authorize_rekey(
        &self,
        org: &OrgId,
        from: Option<&CmkArn>,
        to: &CmkArn,
        mode: Mode,
    ) -> Result<OrgRow, RegistryError> {
        let (org_row, cmk_row) = self.org_and_cmk(org, to).await?;
        may_rekey(org, &org_row, cmk_row.as_ref(), from, to, mode)?;
        Ok(org_row)
    }

    async fn org_and_cmk(
        &self,
        org: &OrgId,
        cmk: &CmkArn,
    ) -> Result<(OrgRow, Option<CmkRow>), RegistryError> {
        let id = cmk_id(cmk);
        let rows = self.get(org, &[ORG_ROW, &id]).await?;
        let Some(org_row) = find(&rows, ORG_ROW) else {
            return Err(Refusal::UnknownOrg(org.clone()).into());
        };
        let cmk_row = find(&rows, &id)
            .map(|row| parse(org.as_str(), row))
            .transpose()?;
        Ok((parse(org.as_str(), org_row)?, cmk_row))
    }

    /// Activates a rekey: takes the next epoch, makes the target the active CMK
    /// and records the job's activation, all in one conditional batch. If the
    /// job was activated before, its activation is returned unchanged.
    ///
    /// `still_mine` says whether the caller still drives the job; it is asked
    /// before each try. A driver that was frozen and wakes up finds that the rows
    /// have changed, and must not try again with fresh ones: another may have
    /// refused the job meanwhile.
    pub async fn activate_rekey(
        &self,
        org: &OrgId,
        job: JobId,
        from: Option<&CmkArn>,
        to: &CmkArn,
        mode: Mode,
        still_mine: impl Fn() -> bool,
    ) -> Result<ActivationRow, RegistryError> {
        let activation_id = format!("{ACTIVATION_PREFIX}{job}");
        let cmk_id = cmk_id(to);
        for _ in 0..CONTENTION_TRIES {
            let rows = self.get(org, &[ORG_ROW, &cmk_id, &activation_id]).await?;
            if let Some(row) = find(&rows, &activation_id) {
                return parse(org.as_str(), row);
            }
            let Some(old_org) = find(&rows, ORG_ROW) else {
                return Err(Refusal::UnknownOrg(org.clone()).into());
            };
            let mut org_row: OrgRow = parse(org.as_str(), old_org)?;
            let old_cmk = find(&rows, &cmk_id);
            let cmk_row: Option<CmkRow> = match old_cmk {
                Some(row) => Some(parse(org.as_str(), row)?),
                None => None,
            };
            may_rekey(org, &org_row, cmk_row.as_ref(), from, to, mode)?;
            let (Some(old_cmk), Some(cmk_row)) = (old_cmk, cmk_row) else {
                // `may_rekey` has refused a CMK without a row.
                continue;
            };
            let epoch = org_row
                .last_epoch
                .next()
                .ok_or_else(|| Refusal::EpochExhausted(org.clone()))?;
            let activation = ActivationRow {
                job,
                epoch,
                mode,
                from_cmk: org_row.cmk.clone(),
                to_cmk: to.clone(),
                at_ms: self.clock.wall().unix_ms(),
            };
            org_row.last_epoch = epoch;
            org_row.wrap_epoch = epoch;
            if mode == Mode::Reencrypt {
                org_row.cell_epoch = epoch;
            }
            org_row.cmk = to.clone();
            // The CMK's row is written back as it is, so that an allow-list
            // changed at this moment makes the batch fail.
            if !still_mine() {
                return Err(RegistryError::NotMine(job));
            }
            let writes = [
                update(old_org, &org_row),
                insert(&activation_id, &activation),
                update(old_cmk, &cmk_row),
            ];
            if self.apply(org, &writes).await? == Applied::Yes {
                return Ok(activation);
            }
        }
        Err(RegistryError::Contended(org.clone()))
    }

    /// Every activation of an organization, in order of job ids. Each names the
    /// CMK of its epoch (I3).
    pub async fn activations(&self, org: &OrgId) -> Result<Vec<ActivationRow>, RegistryError> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let rows = self
                .store
                .control_list(
                    ControlTable::Registry,
                    org.as_str(),
                    ACTIVATION_PREFIX,
                    after.as_deref(),
                    500,
                )
                .await?;
            let Some(last) = rows.last() else {
                return Ok(all);
            };
            after = Some(last.id.clone());
            for row in &rows {
                all.push(parse(org.as_str(), row)?);
            }
        }
    }
}

/// The rules of authority: these two functions and nothing else decide whether
/// a job may do what its message asks for. Pure.
fn may_target(org: &OrgId, cmk_row: Option<&CmkRow>, to: &CmkArn) -> Result<(), Refusal> {
    match cmk_row.map(|row| row.role) {
        None => Err(Refusal::NotAllowed {
            org: org.clone(),
            cmk: to.clone(),
        }),
        Some(CmkRole::SourceOnly) => Err(Refusal::SourceOnly {
            org: org.clone(),
            cmk: to.clone(),
        }),
        Some(CmkRole::Target) => Ok(()),
    }
}

fn may_rekey(
    org: &OrgId,
    org_row: &OrgRow,
    cmk_row: Option<&CmkRow>,
    from: Option<&CmkArn>,
    to: &CmkArn,
    mode: Mode,
) -> Result<(), Refusal> {
    may_target(org, cmk_row, to)?;
    if let Some(given) = from
        && *given != org_row.cmk
    {
        return Err(Refusal::FromMismatch {
            org: org.clone(),
            given: given.clone(),
            active: org_row.cmk.clone(),
        });
    }
    if *to == org_row.cmk {
        return Err(Refusal::SameCmk {
            org: org.clone(),
            cmk: to.clone(),
        });
    }
    if mode == Mode::Rewrap && to.region() != org_row.cmk.region() {
        return Err(Refusal::RewrapAcrossRegions {
            from: org_row.cmk.clone(),
            to: to.clone(),
        });
    }
    Ok(())
}
