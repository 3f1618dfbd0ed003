//! The Controller service: volumes as the cluster knows them.
//!
//! Creating one reserves nothing: its id and its context say all there is to know. The id carries a hash of
//! the name and one of everything else, so that the same name asked with other parameters or another size
//! is another id, and is refused while the name's first volume exists.

use std::{collections::BTreeMap, sync::Arc};

use lamina_proto::csi::v1::{
    CapacityRange, ControllerGetCapabilitiesRequest, ControllerGetCapabilitiesResponse,
    ControllerServiceCapability, CreateVolumeRequest, CreateVolumeResponse, DeleteVolumeRequest,
    DeleteVolumeResponse, GetCapacityRequest, GetCapacityResponse, ListVolumesRequest,
    ListVolumesResponse, ValidateVolumeCapabilitiesRequest, ValidateVolumeCapabilitiesResponse,
    Volume, VolumeCapability, VolumeContentSource, controller_server,
    controller_service_capability::{self, Rpc, rpc},
    list_volumes_response::Entry,
    validate_volume_capabilities_response::Confirmed,
    volume_content_source,
};
use tonic::{Request, Response, Status};

use crate::{
    attributes::Attributes, capability, deadline::Deadline, ledger::Ledger, volume::VolumeId,
};

/// Size of a volume when nobody says one; it bounds nothing.
const SIZE_DEFAULT: i64 = 1 << 30;
/// Longest volume name.
const NAME_MAX: usize = 1024;

/// The service.
#[derive(Clone)]
pub struct Controller {
    ledger: Arc<Ledger>,
}

impl Controller {
    /// A service over the volumes of `ledger`.
    pub fn new(ledger: Ledger) -> Self {
        Self {
            ledger: Arc::new(ledger),
        }
    }

    /// Creates a volume, or finds it.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` for what cannot be, `ALREADY_EXISTS` for a name in use otherwise, `NOT_FOUND` for a
    /// source that does not exist, `OUT_OF_RANGE` for sizes that contradict each other, UNAVAILABLE if the
    /// cluster does not answer in time.
    pub async fn create(
        &self,
        request: CreateVolumeRequest,
        deadline: Deadline,
    ) -> Result<Volume, Status> {
        if request.name.is_empty() || request.name.len() > NAME_MAX {
            return Err(Status::invalid_argument(
                "the name of the volume is missing or too long",
            ));
        }
        if request.volume_capabilities.is_empty() {
            return Err(Status::invalid_argument(
                "the volume capabilities are missing",
            ));
        }
        if !request.mutable_parameters.is_empty() {
            return Err(Status::invalid_argument(
                "a Lamina volume has no mutable parameters: remove the VolumeAttributesClass",
            ));
        }
        let origin = request.volume_content_source.clone();
        let attributes = match &origin {
            None => Attributes::parse(&request.parameters).map_err(refused)?,
            Some(origin) => self.origin(origin, deadline).await?,
        };
        check_all(&request.volume_capabilities, &attributes)?;
        let capacity = size(request.capacity_range.unwrap_or_default())?;
        let context = attributes.to_context();
        let made_of = format!(
            "{:?} {capacity}",
            context.iter().collect::<BTreeMap<_, _>>()
        );
        let volume = Volume {
            capacity_bytes: capacity,
            volume_id: VolumeId::provisioned(&request.name, &made_of).to_string(),
            volume_context: context,
            content_source: origin,
            accessible_topology: Vec::new(),
        };
        let there = self.ledger.create(&request.name, &volume, deadline).await?;
        if there.volume_id == volume.volume_id {
            return Ok(volume);
        }
        Err(Status::already_exists(format!(
            "volume {} exists with other parameters or another size; delete it first or use another name",
            request.name
        )))
    }

    /// Forgets a volume.
    pub fn delete(&self, id: &VolumeId) {
        self.ledger.delete(id);
    }

    /// What a volume made from another one shows: the same.
    async fn origin(
        &self,
        origin: &VolumeContentSource,
        deadline: Deadline,
    ) -> Result<Attributes, Status> {
        let Some(volume_content_source::Type::Volume(origin)) = &origin.r#type else {
            return Err(Status::invalid_argument(
                "a Lamina volume cannot be made from a snapshot: name an image or a flist",
            ));
        };
        let id = VolumeId::parse(&origin.volume_id).map_err(refused)?;
        match self.ledger.get(&id, deadline).await? {
            Some(volume) => Attributes::parse(&volume.volume_context).map_err(refused),
            None => Err(Status::not_found(format!(
                "the volume {id} to be copied does not exist"
            ))),
        }
    }
}

#[tonic::async_trait]
impl controller_server::Controller for Controller {
    async fn create_volume(
        &self,
        request: Request<CreateVolumeRequest>,
    ) -> Result<Response<CreateVolumeResponse>, Status> {
        let deadline = Deadline::of(request.metadata());
        let volume = self.create(request.into_inner(), deadline).await?;
        tracing::info!(volume = volume.volume_id, "created");
        Ok(Response::new(CreateVolumeResponse {
            volume: Some(volume),
        }))
    }

    async fn delete_volume(
        &self,
        request: Request<DeleteVolumeRequest>,
    ) -> Result<Response<DeleteVolumeResponse>, Status> {
        let id = request.into_inner().volume_id;
        if id.is_empty() {
            return Err(Status::invalid_argument("the volume id is missing"));
        }
        // An id that cannot be a volume's names none, and none is what is to be left.
        if let Ok(id) = VolumeId::parse(&id) {
            self.delete(&id);
        }
        Ok(Response::new(DeleteVolumeResponse {}))
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<ValidateVolumeCapabilitiesRequest>,
    ) -> Result<Response<ValidateVolumeCapabilitiesResponse>, Status> {
        let deadline = Deadline::of(request.metadata());
        let request = request.into_inner();
        let id = VolumeId::parse(&request.volume_id).map_err(refused)?;
        if request.volume_capabilities.is_empty() {
            return Err(Status::invalid_argument(
                "the volume capabilities are missing",
            ));
        }
        let known = self.ledger.get(&id, deadline).await?;
        let context = match known {
            Some(volume) => volume.volume_context,
            None if id.is_provisioned() => request.volume_context.clone(),
            None => return Err(Status::not_found(format!("volume {id} does not exist"))),
        };
        let checked = Attributes::parse(&context)
            .map_err(refused)
            .and_then(|attributes| check_all(&request.volume_capabilities, &attributes));
        let (confirmed, message) = match checked {
            Ok(()) => {
                let confirmed = Confirmed {
                    volume_context: request.volume_context,
                    volume_capabilities: request.volume_capabilities,
                    parameters: request.parameters,
                    mutable_parameters: request.mutable_parameters,
                };
                (Some(confirmed), String::new())
            }
            Err(status) => (None, status.message().to_owned()),
        };
        Ok(Response::new(ValidateVolumeCapabilitiesResponse {
            confirmed,
            message,
        }))
    }

    async fn list_volumes(
        &self,
        request: Request<ListVolumesRequest>,
    ) -> Result<Response<ListVolumesResponse>, Status> {
        let deadline = Deadline::of(request.metadata());
        let request = request.into_inner();
        let after = request.starting_token;
        let from_start =
            after.is_empty() || VolumeId::parse(&after).is_ok_and(|id| id.is_provisioned());
        let limit = usize::try_from(request.max_entries)
            .map_err(|_| Status::invalid_argument("max_entries is negative"))?;
        let all = self.ledger.list(deadline).await?;
        if !from_start && !all.iter().any(|v| v.volume_id == after) {
            return Err(Status::aborted(
                "the starting token is none of ours; begin without one",
            ));
        }
        let mut rest = all.into_iter().filter(|v| v.volume_id > after).peekable();
        let taken = if limit == 0 { usize::MAX } else { limit };
        let page: Vec<_> = rest.by_ref().take(taken).collect();
        let last = page.last().map(|v| v.volume_id.clone()).unwrap_or_default();
        let next_token = rest.peek().map_or(String::new(), |_| last);
        let entry = |volume| Entry {
            volume: Some(volume),
            status: None,
        };
        Ok(Response::new(ListVolumesResponse {
            entries: page.into_iter().map(entry).collect(),
            next_token,
        }))
    }

    async fn get_capacity(
        &self,
        _: Request<GetCapacityRequest>,
    ) -> Result<Response<GetCapacityResponse>, Status> {
        // Volumes reserve nothing, so there is always room for another.
        Ok(Response::new(GetCapacityResponse {
            available_capacity: i64::MAX,
        }))
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<ControllerGetCapabilitiesRequest>,
    ) -> Result<Response<ControllerGetCapabilitiesResponse>, Status> {
        let can = [
            rpc::Type::CreateDeleteVolume,
            rpc::Type::ListVolumes,
            rpc::Type::GetCapacity,
            rpc::Type::CloneVolume,
            rpc::Type::SingleNodeMultiWriter,
        ];
        let capabilities = can.map(|kind| ControllerServiceCapability {
            r#type: Some(controller_service_capability::Type::Rpc(Rpc {
                r#type: kind.into(),
            })),
        });
        Ok(Response::new(ControllerGetCapabilitiesResponse {
            capabilities: capabilities.into(),
        }))
    }
}

fn check_all(capabilities: &[VolumeCapability], attributes: &Attributes) -> Result<(), Status> {
    for capability in capabilities {
        capability::check(Some(capability), attributes.mode).map_err(refused)?;
    }
    Ok(())
}

/// The size a volume is said to have: what is asked for, as it bounds nothing.
fn size(range: CapacityRange) -> Result<i64, Status> {
    let (required, limit) = (range.required_bytes, range.limit_bytes);
    match (required, limit) {
        (r, l) if r < 0 || l < 0 => Err(Status::invalid_argument("a size is negative")),
        (r, l) if l > 0 && r > l => Err(Status::out_of_range(
            "the size required is greater than the limit of the size",
        )),
        (0, 0) => Ok(SIZE_DEFAULT),
        (0, l) => Ok(l.min(SIZE_DEFAULT)),
        (r, _) => Ok(r),
    }
}

fn refused(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}

#[cfg(test)]
mod tests;
