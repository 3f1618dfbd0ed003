//! What other programs speak never changes its meaning: every method path, field number and type of the public AFS
//! services is compared with a list written down from the published interface. What we add has field numbers from 100 on.

use std::collections::BTreeSet;

use lamina_proto::DESCRIPTORS;
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    EnumValueDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
};

/// Packages that belong to the public AFS project.
const PACKAGES: [&str; 4] = ["discovery.v1", "layerstore.v1", "afsletpb", "afsproxy.v1"];
/// Enumerations of ours in them.
const OUR_ENUMS: [&str; 3] = ["Network", "DiffMode", "EndReason"];
/// Messages of ours in them.
const OUR_MESSAGES: [&str; 2] = ["Usage", "Keep"];
/// From here on, field numbers are ours.
const OURS_FROM: i32 = 100;

fn described() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let ours = |file: &&FileDescriptorProto| PACKAGES.contains(&file.package());
    set.file.iter().filter(ours).flat_map(lines).collect()
}

fn lines(file: &FileDescriptorProto) -> Vec<String> {
    let mut lines = Vec::new();
    let package = file.package();
    for service in &file.service {
        for method in &service.method {
            let stream = |yes: bool| if yes { "stream " } else { "" };
            lines.push(format!(
                "/{package}.{}/{} {}{} -> {}{}",
                service.name(),
                method.name(),
                stream(method.client_streaming()),
                short(method.input_type()),
                stream(method.server_streaming()),
                short(method.output_type()),
            ));
        }
    }
    for message in &file.message_type {
        let name = message.name();
        if OUR_MESSAGES.contains(&name) {
            continue;
        }
        let published = message.field.iter().filter(|f| f.number() < OURS_FROM);
        lines.extend(published.map(|f| format!("{package}.{name} {}", field(f))));
    }
    for kind in &file.enum_type {
        let name = kind.name();
        if OUR_ENUMS.contains(&name) {
            continue;
        }
        let value =
            |v: &EnumValueDescriptorProto| format!("{package}.{name} {} {}", v.number(), v.name());
        lines.extend(kind.value.iter().map(value));
    }
    lines
}

fn field(field: &FieldDescriptorProto) -> String {
    let repeated = match field.label() {
        Label::Repeated => "repeated ",
        Label::Optional | Label::Required => "",
    };
    let kind = match field.r#type() {
        Type::Message | Type::Enum => short(field.type_name()).to_owned(),
        scalar => scalar
            .as_str_name()
            .trim_start_matches("TYPE_")
            .to_lowercase(),
    };
    format!("{} {} {repeated}{kind}", field.number(), field.name())
}

fn short(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

#[test]
fn the_public_services_are_exactly_as_published() {
    let published: BTreeSet<String> = include_str!("afs.txt").lines().map(str::to_owned).collect();
    let described = described();
    let missing: Vec<_> = published.difference(&described).collect();
    let more: Vec<_> = described.difference(&published).collect();
    assert!(
        missing.is_empty() && more.is_empty(),
        "missing: {missing:#?}\nadded: {more:#?}"
    );
}
