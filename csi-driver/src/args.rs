//! The command line.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::socket;

/// Lamina's CSI driver.
#[derive(Debug, Parser)]
#[command(name = "lamina-csi", version, about)]
pub struct Cli {
    /// What this process is.
    #[command(subcommand)]
    pub role: Role,
}

/// What a process is.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// On every node: mounts volumes for kubelet
    Node(NodeArgs),
    /// Once per cluster: provisions volumes
    Controller(ControllerArgs),
}

/// The node role.
#[derive(Debug, Args)]
pub struct NodeArgs {
    #[command(flatten)]
    /// What both roles have.
    pub serve: ServeArgs,
    /// Socket of Lamina's node server
    #[arg(long, value_name = "PATH", default_value = "/run/lamina/node.sock")]
    pub agent: PathBuf,
    /// Kubelet's `plugins_registry` directory, as this process sees it; without it the driver does not register
    #[arg(long, value_name = "DIR", requires = "kubelet_plugin_dir")]
    pub registration_dir: Option<PathBuf>,
    /// Directory of the endpoint's socket, as kubelet sees it
    #[arg(long, value_name = "DIR")]
    pub kubelet_plugin_dir: Option<PathBuf>,
    /// Name of the node, as the cluster has it
    #[arg(
        long,
        value_name = "NAME",
        env = "NODE_NAME",
        default_value = "localhost"
    )]
    pub node_name: String,
    /// Serve the controller's calls too (for tests without a cluster)
    #[arg(long)]
    pub with_controller: bool,
}

/// The controller role.
#[derive(Debug, Args)]
pub struct ControllerArgs {
    #[command(flatten)]
    /// What both roles have.
    pub serve: ServeArgs,
    /// Leave provisioning to a sidecar of your own
    #[arg(long)]
    pub no_provisioner: bool,
    /// Namespace of the lease that elects the one that provisions
    #[arg(
        long,
        value_name = "NAME",
        env = "POD_NAMESPACE",
        default_value = "lamina-system"
    )]
    pub namespace: String,
    /// Name of this process among those to elect from
    #[arg(
        long,
        value_name = "NAME",
        env = "POD_NAME",
        default_value = "lamina-controller"
    )]
    pub identity: String,
}

/// What both roles have.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Socket to serve CSI on
    #[arg(long, value_name = "unix:///PATH", default_value = "unix:///csi/csi.sock", value_parser = socket::endpoint)]
    pub endpoint: PathBuf,
    /// Address for probes: GET /healthz, GET /readyz
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub http: Option<SocketAddr>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_documented_lines_parse() {
        for line in [
            "lamina-csi node --endpoint unix:///csi/csi.sock --agent /run/lamina/node.sock --registration-dir /registration --kubelet-plugin-dir /var/lib/kubelet/plugins/csi.lamina.dev --node-name n1 --http 0.0.0.0:9808",
            "lamina-csi node --endpoint unix:///tmp/x/csi.sock --agent /run/lamina/node.sock --with-controller",
            "lamina-csi controller --endpoint unix:///csi/csi.sock --namespace lamina-system --identity pod-1",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap();
        }
    }

    #[test]
    fn the_operators_lines_parse() {
        for golden in [
            include_str!("../../operator/tests/golden/smallest.yaml"),
            include_str!("../../operator/tests/golden/everything.yaml"),
        ] {
            let ours = lines(golden, "/usr/local/bin/lamina-csi");
            assert_eq!(ours.len(), 2, "{golden}");
            for line in ours {
                let cli = Cli::try_parse_from(&line).unwrap_or_else(|error| panic!("{error}"));
                let serve = match cli.role {
                    Role::Node(args) => args.serve,
                    Role::Controller(args) => args.serve,
                };
                assert!(serve.http.is_some(), "kubelet probes it: {line:?}");
            }
        }
    }

    /// Command lines of the containers that run `program`, out of YAML as the operator's tests write it.
    fn lines<'a>(yaml: &'a str, program: &'a str) -> Vec<Vec<&'a str>> {
        let mut all = Vec::new();
        for container in yaml.split("- args:\n").skip(1) {
            let args = container
                .lines()
                .map_while(|line| line.trim_start().strip_prefix("- "));
            let (_, command) = container.split_once("command:\n").unwrap();
            if command.lines().next().unwrap().trim() == format!("- {program}") {
                all.push(std::iter::once(program).chain(args).collect());
            }
        }
        all
    }
}
