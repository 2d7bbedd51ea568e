"""Reads what a service is deployed with: kustomizations as far as ours go, and Compose files.

This is not kustomize. It knows the fields that our files use and refuses any other, so that a check
never passes over something it does not understand.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

Resource = dict[str, Any]

_FIELDS = {
    "apiVersion",
    "kind",
    "namespace",
    "resources",
    "components",
    "images",
    "configMapGenerator",
    "secretGenerator",
    "generatorOptions",
    "patches",
}
POD_OWNERS = ("Deployment", "Job", "StatefulSet")


def documents(path: Path) -> list[Resource]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def key(resource: Resource) -> tuple[str, str]:
    return resource["kind"], resource["metadata"]["name"]


class Kustomization:
    """One folder with everything that it names, read as `kustomize build` reads it."""

    def __init__(self, folder: Path, *, components: list[str] | None = None) -> None:
        """`components` takes the place of those that its file lists."""
        self.folder = folder
        (self.text,) = documents(folder / "kustomization.yaml")
        unknown = self.text.keys() - _FIELDS
        assert not unknown, f"{folder}: these checks do not know {unknown}"
        self.files = {folder / "kustomization.yaml"}
        self.resources: dict[tuple[str, str], Resource] = {}
        self.generated: dict[tuple[str, str], dict[str, str]] = {}
        for name in self.text.get("resources", ()):
            self._add(folder / name)
        self._generate()
        for name in self.text.get("components", ()) if components is None else components:
            self._add_component(Kustomization.component(folder / name))
        self._patch(self.text)

    @classmethod
    def component(cls, folder: Path) -> Kustomization:
        """Read without its patches, which have their target elsewhere."""
        read = cls.__new__(cls)
        read.folder = folder.resolve()
        (read.text,) = documents(folder / "kustomization.yaml")
        assert read.text["kind"] == "Component", folder
        assert not read.text.keys() - _FIELDS
        read.files = {read.folder / "kustomization.yaml"}
        read.resources, read.generated = {}, {}
        for name in read.text.get("resources", ()):
            read._add(read.folder / name)
        return read

    def _add(self, path: Path) -> None:
        assert path.exists(), f"{self.folder}/kustomization.yaml names {path}, which is not there"
        if path.is_dir():
            other = Kustomization(path.resolve())
            self._take(other)
            return
        self.files.add(path.resolve())
        for resource in documents(path):
            assert key(resource) not in self.resources, f"{key(resource)} is there twice"
            self.resources[key(resource)] = resource

    def _take(self, other: Kustomization) -> None:
        twice = self.resources.keys() & other.resources.keys()
        assert not twice, f"{twice} is there twice"
        self.resources |= deepcopy(other.resources)
        self.generated |= deepcopy(other.generated)
        self.files |= other.files

    def _add_component(self, component: Kustomization) -> None:
        self._take(component)
        self._generate(component)
        self._patch(component.text, component.folder)
        self.files |= component.files

    def _generate(self, of: Kustomization | None = None) -> None:
        source = of or self
        for kind, field in (("ConfigMap", "configMapGenerator"), ("Secret", "secretGenerator")):
            for generator in source.text.get(field, ()):
                name = (kind, generator["name"])
                merged = generator.get("behavior") == "merge"
                assert merged == (name in self.generated), f"{name}: behavior"
                values = self.generated.setdefault(name, {})
                values.update(line.split("=", 1) for line in generator.get("literals", ()))
                for file in generator.get("files", ()):
                    values[file] = (source.folder / file).read_text(encoding="utf-8")
                    source.files.add((source.folder / file).resolve())

    def _patch(self, text: dict[str, Any], folder: Path | None = None) -> None:
        for patch in text.get("patches", ()):
            if "path" in patch:
                path = (folder or self.folder) / patch["path"]
                self.files.add(path.resolve())
                (merge,) = documents(path)
                assert key(merge) in self.resources, f"{path} finds no {key(merge)}"
                _merge(self.resources[key(merge)], merge)
            else:
                target = (patch["target"]["kind"], patch["target"]["name"])
                assert target in self.resources, f"{self.folder} finds no {target}"
                for operation in yaml.safe_load(patch["patch"]):
                    _operate(self.resources[target], operation)

    def pods(self) -> Iterator[tuple[Resource, dict[str, Any]]]:
        """Each resource that owns pods, and the pods' spec."""
        for (kind, _), resource in self.resources.items():
            if kind in POD_OWNERS:
                yield resource, resource["spec"]["template"]["spec"]

    def settings_of(self, container: dict[str, Any]) -> dict[str, str]:
        """The variables that are known here; a Secret that is not in these files adds none."""
        found = {one["name"]: one.get("value", "") for one in container.get("env", ())}
        for source in container.get("envFrom", ()):
            if "configMapRef" in source:
                found |= self.generated["ConfigMap", source["configMapRef"]["name"]]
            else:
                found |= self.generated.get(("Secret", source["secretRef"]["name"]), {})
        return found


def _merge(into: dict[str, Any], patch: dict[str, Any]) -> None:
    """A strategic merge, of maps only: none of our patches has a list."""
    for name, value in patch.items():
        assert not isinstance(value, list), f"these checks merge no list: {name}"
        if isinstance(value, dict):
            _merge(into.setdefault(name, {}), value)
        else:
            into[name] = value


def _operate(resource: Resource, operation: dict[str, Any]) -> None:
    *above, last = operation["path"].strip("/").split("/")
    place = resource
    for name in above:
        place = place[name]
    assert last in place, f"{operation['path']} is not in {key(resource)}"
    if operation["op"] == "remove":
        del place[last]
    else:
        assert operation["op"] == "replace", operation
        place[last] = operation["value"]
