"""`banger image …`: what is sent for images of registries and of files, and what is shown of whose they are."""

REFERENCE = "docker.io/library/alpine:3.20"
OWN = {
    "path": "/com/thaloco/Banger1/image/y",
    "id": "c0ffee000000",
    "size": 1,
    "created_at": 1,
    "source": REFERENCE,
}


def sent(lab, member):
    return next(call["body"] for call in lab.calls() if call["member"] == member)


def test_a_pull_from_a_registry(lab):
    done = lab.run("image", "pull", REFERENCE, "--as", "alpine")
    assert done.status == 0
    assert sent(lab, "PullImage") == [REFERENCE, {"as": "alpine"}]
    assert "alpine is here; `banger vm run --image alpine` uses it" in done.err
    lab.run("image", "pull", REFERENCE, "--json")
    assert lab.calls()[-1]["body"] == [REFERENCE, {}]


def test_an_import_of_a_file_and_of_a_pipe(lab, tmp_path):
    (tmp_path / "my root.tar").write_text("a tar")
    assert lab.run("image", "import", "mine", str(tmp_path / "my root.tar")).status == 0
    assert sent(lab, "ImportImage") == ["mine", 0, {}]
    assert sent(lab, "read") == ["a tar"]
    done = lab.run("image", "register", "other", "-", stdin=b"from a pipe")
    assert done.status == 0
    assert lab.calls()[-1]["body"] == ["from a pipe"]


def test_files_that_cannot_be_opened_are_told_before_anything_is_asked(lab, tmp_path):
    (tmp_path / "folder").mkdir()
    for file, says in (
        (str(tmp_path / "nothing"), "No such file or directory"),
        (str(tmp_path / "folder"), f"tar -C {tmp_path}/folder -c . | banger image import"),
    ):
        done = lab.run("image", "import", "mine", file)
        assert (done.status, says in done.err) == (1, True), done
    assert "ImportImage" not in lab.members()


def test_whose_images_are_listed(lab):
    mine = {**OWN, "name": REFERENCE, "owner": 0, "owner_name": "root"}
    others = {"path": "/x", "id": "0" * 12, "name": "secret", "owner": 4242}
    lab.set(images=["debian"], own_images=[mine, others])
    done = lab.run("image", "list")
    assert [line.split()[:2] for line in done.text.splitlines()] == [
        ["NAME", "OWNER"], ["debian", "shared"], [REFERENCE, "shared"],
    ]  # fmt: skip
    assert ["secret", "4242"] in [
        line.split()[:2] for line in lab.run("image", "list", "--all").text.splitlines()
    ]
