//! What a node says it has parts of, checked.

use std::collections::BTreeSet;

use lamina_flist::{BlobId, Sha256Digest};
use lamina_proto::lamina::v1::{PartialBlob, PutPartialsRequest};

use crate::beat::BadField;
use crate::limits::Limits;
use crate::node_id::NodeId;
use crate::sections::Sections;

/// Part of a blob of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Which layer.
    pub layer: Sha256Digest,
    /// Its blob.
    pub blob: BlobId,
    /// How many entries the blob has.
    pub entries: u32,
    /// Where some of them are.
    pub sections: Sections,
}

impl Part {
    /// As it travels.
    pub fn told(&self) -> PartialBlob {
        PartialBlob {
            layer_digest: self.layer.to_string(),
            blob: self.blob.as_bytes().to_vec(),
            entries: self.entries,
            sections: self.sections.as_bytes().to_vec(),
        }
    }

    fn parse(blob: &PartialBlob, index: usize) -> Result<Self, BadField> {
        let bad = |why: &dyn std::fmt::Display| BadField::at("blobs", index, why);
        let id = <[u8; 32]>::try_from(blob.blob.as_slice());
        Ok(Self {
            layer: blob.layer_digest.parse().map_err(|error| bad(&error))?,
            blob: BlobId::from_bytes(id.map_err(|_| bad(&"a blob id has 32 bytes"))?),
            entries: blob.entries,
            sections: Sections::parse(&blob.sections)
                .ok_or_else(|| bad(&"sections are 32 bytes"))?,
        })
    }
}

/// All the parts of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// Whose.
    pub node_id: NodeId,
    /// By layer and blob, each blob once.
    pub parts: Vec<Part>,
}

impl Parts {
    /// Checks what a node sent.
    ///
    /// # Errors
    /// Names the first field that is not as it must be.
    pub fn parse(request: &PutPartialsRequest, limits: &Limits) -> Result<Self, BadField> {
        let node_id =
            NodeId::parse(&request.node_id).map_err(|why| BadField::new("node_id", why))?;
        let (count, max) = (request.blobs.len(), limits.parts_max);
        if count > max {
            let why = format!("{count} of them are too many; at most {max} are taken");
            return Err(BadField::new("blobs", why));
        }
        let parts = request.blobs.iter().enumerate();
        let parts: Result<Vec<Part>, BadField> = parts
            .map(|(index, blob)| Part::parse(blob, index))
            .collect();
        let mut parts = parts?;
        parts.sort_unstable_by_key(|part| (part.layer, part.blob));
        let mut seen = BTreeSet::new();
        if !parts.iter().all(|part| seen.insert(part.blob)) {
            return Err(BadField::new("blobs", "one of them is there twice"));
        }
        Ok(Self { node_id, parts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(n: u8) -> PartialBlob {
        Part {
            layer: Sha256Digest::from_bytes([1; 32]),
            blob: BlobId::from_bytes([n; 32]),
            entries: 9,
            sections: Sections::of(9, |at| at == 3),
        }
        .told()
    }

    fn request(blobs: Vec<PartialBlob>) -> PutPartialsRequest {
        PutPartialsRequest {
            node_id: "n1".into(),
            blobs,
        }
    }

    #[test]
    fn parts_are_sorted_and_strange_ones_refused() {
        let limits = Limits {
            parts_max: 3,
            ..Limits::default()
        };
        let parse = |request: &PutPartialsRequest| Parts::parse(request, &limits);
        // It reads the blob and has nothing of it yet.
        let empty = PartialBlob {
            sections: vec![0; 32],
            ..blob(3)
        };
        let parsed = parse(&request(vec![blob(2), blob(1), empty.clone()])).unwrap();
        let told: Vec<_> = parsed.parts.iter().map(Part::told).collect();
        assert_eq!(told, [blob(1), blob(2), empty]);
        let short = |field: fn(&mut PartialBlob)| {
            let mut strange = blob(1);
            field(&mut strange);
            request(vec![blob(2), strange])
        };
        let strange = [
            (short(|blob| blob.layer_digest.clear()), "blobs[1]"),
            (short(|blob| blob.blob.truncate(31)), "blobs[1]"),
            (short(|blob| blob.sections.push(0)), "blobs[1]"),
            (request(vec![blob(1); 2]), "blobs"),
            (request((0..4).map(blob).collect()), "blobs"),
            (
                PutPartialsRequest {
                    node_id: "a b".into(),
                    ..request(vec![])
                },
                "node_id",
            ),
        ];
        for (request, field) in strange {
            assert_eq!(parse(&request).unwrap_err().field(), field);
        }
    }
}
