//! The `lamina` command as a user types it. Needs root (mounting); says so loudly where it is not.

mod afslet;
mod authority;
mod corpus;
mod discovery;
mod documents;
mod exec;
mod explore;
mod images;
mod lifecycle;
mod machine;
mod mounts;
mod net;
mod node;
mod out;
mod outage;
mod pack;
mod paths;
mod peers;
mod run;
mod sdk;
mod shortage;
mod space;
mod tidy;
mod trouble;
mod up;
mod usage;
