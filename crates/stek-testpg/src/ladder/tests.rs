use super::*;

#[derive(Default)]
struct Described {
    url: Option<&'static str>,
    candidates: Vec<&'static str>,
    programs: Vec<&'static str>,
    docker: bool,
    root: bool,
    os_release: &'static str,
}

impl Machine for Described {
    fn database_url(&self) -> Option<String> {
        self.url.map(str::to_owned)
    }
    fn program_directories(&self) -> Vec<PathBuf> {
        self.candidates.iter().map(PathBuf::from).collect()
    }
    fn has_server_programs(&self, directory: &Path) -> bool {
        self.programs.iter().any(|known| Path::new(known) == directory)
    }
    fn docker_answers(&self) -> bool {
        self.docker
    }
    fn is_root(&self) -> bool {
        self.root
    }
    fn os_release(&self) -> String {
        self.os_release.to_owned()
    }
}

const DEBIAN: &str = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\n";
const MINT: &str = "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n";
const FEDORA: &str = "NAME=\"Fedora, not debian\"\nID=fedora\n";

fn full() -> Described {
    Described {
        url: Some("postgres://db/postgres"),
        candidates: vec!["/client-only/bin", "/old/bin", "/older/bin"],
        programs: vec!["/older/bin", "/old/bin"],
        docker: true,
        root: true,
        os_release: DEBIAN,
    }
}

#[test]
fn a_given_url_comes_first() {
    assert_eq!(choose(&full()).unwrap(), Rung::Given("postgres://db/postgres".to_owned()));
}

#[test]
fn an_empty_url_counts_as_none() {
    let machine = Described { url: Some(""), ..full() };
    assert_eq!(choose(&machine).unwrap(), Rung::Programs("/old/bin".into()));
}

#[test]
fn the_first_directory_with_server_programs_comes_second() {
    let machine = Described { url: None, ..full() };
    assert_eq!(choose(&machine).unwrap(), Rung::Programs("/old/bin".into()));
}

#[test]
fn a_throwaway_server_ignores_the_given_url() {
    assert_eq!(choose_throwaway(&full()).unwrap(), Rung::Programs("/old/bin".into()));
}

#[test]
fn docker_comes_third() {
    let machine = Described { url: None, programs: vec![], ..full() };
    assert_eq!(choose(&machine).unwrap(), Rung::Container);
}

#[test]
fn installation_comes_fourth() {
    for os_release in [DEBIAN, MINT] {
        let machine =
            Described { url: None, programs: vec![], docker: false, os_release, ..full() };
        assert_eq!(choose(&machine).unwrap(), Rung::Install, "{os_release}");
    }
}

#[test]
fn nothing_is_installed_without_root_or_apt() {
    let without_root = Described { root: false, os_release: DEBIAN, ..Described::default() };
    let without_apt = Described { root: true, os_release: FEDORA, ..Described::default() };
    assert!(choose(&without_root).is_err());
    assert!(choose(&without_apt).is_err());
}

#[test]
fn the_last_error_says_what_to_install_and_names_the_variable() {
    let text = format!("{:#}", choose(&Described::default()).unwrap_err());
    for part in ["apt-get install postgresql", "initdb", "Docker", "STEK_TEST_DATABASE_URL"] {
        assert!(text.contains(part), "{part} is missing in: {text}");
    }
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn versions_are_ordered_as_numbers() {
    let ordered = newest_first(
        ["/p/9.6/bin", "/p/15/bin", "/p/other/bin", "/p/9.10/bin", "/p/100/bin"]
            .map(PathBuf::from)
            .to_vec(),
    );
    let expected = ["/p/100/bin", "/p/15/bin", "/p/9.10/bin", "/p/9.6/bin", "/p/other/bin"];
    assert_eq!(ordered, expected.map(PathBuf::from));
}
