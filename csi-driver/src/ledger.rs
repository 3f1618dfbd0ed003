//! Which volumes exist.
//!
//! A volume of Lamina reserves nothing anywhere: it exists because a `PersistentVolume` says so. In a cluster
//! the `PersistentVolumes` are therefore the truth; what this process itself created is remembered beside
//! them, bounded, for the time until its `PersistentVolume` is written, and for use without a cluster.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    future::Future,
    sync::{Mutex, PoisonError},
};

use k8s_openapi::api::core::v1::PersistentVolume;
use kube::{Api, Client, api::ListParams};
use lamina_proto::csi::v1::Volume;
use tokio::time::timeout;
use tonic::Status;

use crate::{attributes::quantity, deadline::Deadline, identity::DRIVER, volume::VolumeId};

/// Volumes remembered; the oldest are forgotten first.
const REMEMBERED: usize = 10_000;
/// `PersistentVolumes` per request to the cluster.
const PAGE: u32 = 500;

/// The volumes that exist.
pub struct Ledger {
    cluster: Option<Api<PersistentVolume>>,
    created: Mutex<Created>,
}

#[derive(Default)]
struct Created {
    /// By the time they were created.
    by_age: BTreeMap<u64, (String, Volume)>,
    by_name: HashMap<String, u64>,
    next: u64,
}

impl Ledger {
    /// With a cluster, its `PersistentVolumes` count too.
    pub fn new(cluster: Option<Client>) -> Self {
        Self {
            cluster: cluster.map(Api::all),
            created: Mutex::default(),
        }
    }

    /// Remembers what was created under `name`, unless that name has another volume: then that one.
    ///
    /// # Errors
    ///
    /// UNAVAILABLE if the cluster does not answer in time.
    pub async fn create(
        &self,
        name: &str,
        volume: &Volume,
        deadline: Deadline,
    ) -> Result<Volume, Status> {
        if let Some(there) = in_time(deadline, self.in_cluster(name)).await? {
            return Ok(there);
        }
        let mut created = self.created.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(created.insert(name, volume))
    }

    /// Forgets a volume; its `PersistentVolume` is its owner's to delete.
    pub fn delete(&self, id: &VolumeId) {
        let mut created = self.created.lock().unwrap_or_else(PoisonError::into_inner);
        created.remove(id.as_str());
    }

    /// The volume of this id.
    ///
    /// # Errors
    ///
    /// UNAVAILABLE if the cluster does not answer in time.
    pub async fn get(&self, id: &VolumeId, deadline: Deadline) -> Result<Option<Volume>, Status> {
        let all = self.list(deadline).await?;
        Ok(all.into_iter().find(|v| v.volume_id == id.as_str()))
    }

    /// Every volume, by id.
    ///
    /// # Errors
    ///
    /// UNAVAILABLE if the cluster does not answer in time.
    pub async fn list(&self, deadline: Deadline) -> Result<Vec<Volume>, Status> {
        let mut all: Vec<_> = {
            let created = self.created.lock().unwrap_or_else(PoisonError::into_inner);
            created.by_age.values().map(|(_, v)| v.clone()).collect()
        };
        let mut seen: HashSet<String> = all.iter().map(|v| v.volume_id.clone()).collect();
        for volume in in_time(deadline, self.all_in_cluster()).await? {
            if seen.insert(volume.volume_id.clone()) {
                all.push(volume);
            }
        }
        all.sort_by(|a, b| a.volume_id.cmp(&b.volume_id));
        Ok(all)
    }

    async fn in_cluster(&self, name: &str) -> Result<Option<Volume>, Status> {
        let Some(api) = &self.cluster else {
            return Ok(None);
        };
        // A name that is no object's name cannot be that of a PersistentVolume.
        let object = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
        if name.len() > 253 || !name.bytes().all(object) {
            return Ok(None);
        }
        let volume = api.get_opt(name).await.map_err(|error| silent(&error))?;
        Ok(volume.as_ref().and_then(of_ours))
    }

    async fn all_in_cluster(&self) -> Result<Vec<Volume>, Status> {
        let Some(api) = &self.cluster else {
            return Ok(Vec::new());
        };
        let mut all = Vec::new();
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = api.list(&params).await.map_err(|error| silent(&error))?;
            all.extend(page.items.iter().filter_map(of_ours));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(all),
            }
        }
    }
}

impl Created {
    fn insert(&mut self, name: &str, volume: &Volume) -> Volume {
        if let Some((_, there)) = self.by_name.get(name).and_then(|age| self.by_age.get(age)) {
            return there.clone();
        }
        self.by_name.insert(name.to_owned(), self.next);
        self.by_age
            .insert(self.next, (name.to_owned(), volume.clone()));
        self.next += 1;
        if self.by_age.len() > REMEMBERED
            && let Some((_, (name, _))) = self.by_age.pop_first()
        {
            self.by_name.remove(&name);
        }
        volume.clone()
    }

    fn remove(&mut self, id: &str) {
        let found = self.by_age.iter().find(|(_, (_, v))| v.volume_id == id);
        if let Some(age) = found.map(|(age, _)| *age)
            && let Some((name, _)) = self.by_age.remove(&age)
        {
            self.by_name.remove(&name);
        }
    }
}

/// A `PersistentVolume` as a CSI volume, if it is one of this driver.
fn of_ours(volume: &PersistentVolume) -> Option<Volume> {
    let spec = volume.spec.as_ref()?;
    let csi = spec.csi.as_ref().filter(|csi| csi.driver == DRIVER)?;
    let capacity = spec
        .capacity
        .as_ref()
        .and_then(|c| quantity::bytes(&c.get("storage")?.0));
    let context = csi.volume_attributes.clone().unwrap_or_default();
    Some(Volume {
        capacity_bytes: capacity.and_then(|n| i64::try_from(n).ok()).unwrap_or(0),
        volume_id: csi.volume_handle.clone(),
        volume_context: context.into_iter().collect(),
        ..Volume::default()
    })
}

async fn in_time<T>(
    deadline: Deadline,
    asked: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let answer = timeout(deadline.rest(), asked).await;
    answer.unwrap_or_else(|_| {
        Err(Status::unavailable(
            "the cluster's PersistentVolumes could not be read in time: it does not answer",
        ))
    })
}

fn silent(error: &kube::Error) -> Status {
    Status::unavailable(format!(
        "the cluster's PersistentVolumes could not be read: {error}"
    ))
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use kube::client::Body;
    use tonic::{Code, codegen::http::Response};

    use super::*;

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(30))
    }

    fn volume(id: &str) -> Volume {
        Volume {
            volume_id: id.into(),
            ..Volume::default()
        }
    }

    #[tokio::test]
    async fn a_name_keeps_its_volume_until_it_is_deleted() {
        let ledger = Ledger::new(None);
        let id = |v: Volume| v.volume_id;
        assert_eq!(
            id(ledger.create("n", &volume("a"), soon()).await.unwrap()),
            "a"
        );
        assert_eq!(
            id(ledger.create("n", &volume("b"), soon()).await.unwrap()),
            "a"
        );
        ledger.delete(&VolumeId::parse("a").unwrap());
        assert_eq!(
            id(ledger.create("n", &volume("b"), soon()).await.unwrap()),
            "b"
        );
        assert_eq!(ledger.list(soon()).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded() {
        let ledger = Ledger::new(None);
        for n in 0..=REMEMBERED {
            let name = n.to_string();
            ledger.create(&name, &volume(&name), soon()).await.unwrap();
        }
        let created = ledger.created.lock().unwrap();
        assert_eq!(
            (created.by_age.len(), created.by_name.len()),
            (REMEMBERED, REMEMBERED)
        );
        assert!(!created.by_name.contains_key("0"));
    }

    // Calls waited for it for ever, and the provisioner with them.
    #[tokio::test]
    async fn a_cluster_that_does_not_answer_is_waited_for_as_long_as_the_caller_waits() {
        let never =
            tower::service_fn(|_| std::future::pending::<Result<Response<Body>, Infallible>>());
        let ledger = Ledger::new(Some(Client::new(never, "ns")));
        let late = Deadline::after(Duration::ZERO);
        let made = ledger.create("n", &volume("a"), late).await;
        assert_eq!(made.unwrap_err().code(), Code::Unavailable);
        let listed = ledger.list(late).await;
        assert_eq!(listed.unwrap_err().code(), Code::Unavailable);
    }

    #[test]
    fn volumes_of_other_drivers_are_not_ours() {
        let pv = |driver: &str| {
            let json = serde_json::json!({"spec": {
                "capacity": {"storage": "1Gi"},
                "csi": {"driver": driver, "volumeHandle": "h", "volumeAttributes": {"mode": "ro"}}}});
            serde_json::from_value::<PersistentVolume>(json).unwrap()
        };
        assert_eq!(of_ours(&pv(DRIVER)).unwrap().capacity_bytes, 1 << 30);
        assert_eq!(of_ours(&pv("other")), None);
    }
}
