//! Stores against the world: URLs, real servers, web servers with faults.

mod gcs_front;
mod http;
mod oci_auth;
mod servers;
mod tools;
mod urls;
mod web;
