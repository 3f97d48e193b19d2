"""Which keys a change touches. Two transactions conflict when they share a key that one of them writes.

A write takes the keys of its new (and, where logged, old) image exclusively; a foreign key takes its parent's key
shared, so children of one parent do not conflict while a child and a write of its parent do. The rows of a table
without any key are a keyspace of their own, which all of its updates and deletes write.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.catalogue import Catalogue, TableName
from pipeline.keyspaces import Keyspace, Keyspaces
from schemas.change_batch import ChangeBatch, Relation

_ALL = b"IUD"


@dataclass(frozen=True, slots=True)
class KeyUse:
    """How the changes of one relation use one keyspace.

    `columns` and `widths` say where the keys are, as in `KeyColumns`; no columns with `identity` set mean that the
    batch's own keys are this keyspace's keys, byte for byte. `ops` are the operations that use the keyspace this way.
    """

    space: Keyspace
    exclusive: bool
    ops: bytes = _ALL
    columns: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()
    identity: bool = False

    @property
    def coarse(self) -> bool:
        """Whether all rows share one key."""
        return not self.identity and not self.columns


class KeyRules:
    """The key uses of each relation of a stream, derived from the target's catalogue when it is first seen.

    A relation may make a keyspace coarse: what was derived before no longer holds then. `admit` tells.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._spaces = Keyspaces(catalogue)
        self._uses: dict[Relation, tuple[KeyUse, ...]] = {}
        self._seen: dict[TableName, Relation] = {}
        self.version = 0  # rises when keys that were derived before no longer compare with those derived now
        self.has_foreign_keys = any(table.foreign_keys for table in catalogue.tables.values())

    @property
    def catalogue(self) -> Catalogue:
        """What the rules are derived from."""
        return self._catalogue

    def admit(self, batch: ChangeBatch) -> bool:
        """Note the batch's relations; whether its keys compare with those of the batches before.

        They do not when a table changed its columns or a keyspace became coarse: such a batch must wait
        for all before it, and all after it for the batch.
        """
        changed = fresh = False
        for section in batch.sections:
            relation = section.relation
            known = self._seen.get(relation.name)
            if known != relation:
                fresh, changed = True, changed or known is not None
                self._seen[relation.name] = relation
        if not fresh:
            return True
        if changed:
            self.version += 1
            self._spaces.forget_forms()
            self._uses.clear()
        coarse = self._spaces.coarse_count
        for section in batch.sections:
            self.uses(section.relation)
        return not changed and self._spaces.coarse_count == coarse

    def uses(self, relation: Relation) -> tuple[KeyUse, ...]:
        """Return how changes of `relation` use keys."""
        found = self._uses.get(relation)
        while found is None:
            coarse = self._spaces.coarse_count
            derived = tuple(self._derive(relation))
            if self._spaces.coarse_count == coarse:
                found = self._uses[relation] = derived
            else:
                self.version += 1
                self._uses.clear()
        return found

    def _derive(self, relation: Relation) -> Iterator[KeyUse]:
        table = self._catalogue.tables.get(relation.name)
        if table is None:
            yield KeyUse((relation.name, ()), exclusive=True)
            return
        for space in self._spaces.written(table):
            yield self._use(relation, space, space[1], exclusive=True)
        if not table.keys:
            rows: Keyspace = (table.name, ())
            yield KeyUse(rows, exclusive=True, ops=b"UD")
            yield KeyUse(rows, exclusive=False, ops=b"I")
        if table.opaque_unique:
            yield KeyUse((table.name, ("*",)), exclusive=True)
        for space, own in self._spaces.references(table):
            yield self._use(relation, space, own, exclusive=False)

    def _use(self, relation: Relation, space: Keyspace, key: tuple[str, ...], *, exclusive: bool) -> KeyUse:
        """`key` names the relation's columns in the order of the keyspace's."""
        found = self._spaces.find(relation, space, key)
        if found is None:
            return KeyUse(space, exclusive)
        if exclusive and relation.key_columns == key and not any(found.widths):
            return KeyUse(space, exclusive, identity=True)
        return KeyUse(space, exclusive, columns=found.places, widths=found.widths)
