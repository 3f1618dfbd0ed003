//! The node's daemons: holder, mount daemon, agent.
