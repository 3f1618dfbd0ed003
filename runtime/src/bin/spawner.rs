//! A spawner of sandboxes and nothing else, for tests and measurements; `lamina` is one by itself.

fn main() -> std::io::Result<()> {
    lamina_runtime::spawner::serve()
}
