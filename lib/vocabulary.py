"""Characters and class ids of the recognizer, and the rule by which a word counts as read."""
import string

VOCABULARIES = {
    'LOWERCASE': string.digits + string.ascii_lowercase,
    'ALLCASES': string.digits + string.ascii_letters,
    'ALLCASES_SYMBOLS': string.printable[:94],  # without the six kinds of white space
}
ALPHANUMERIC = frozenset(VOCABULARIES['LOWERCASE'])


class Vocabulary:
    """Strings to class ids and back: the characters, then EOS, PADDING, UNKNOWN; `voc_type` a key of VOCABULARIES."""

    def __init__(self, voc_type='ALLCASES_SYMBOLS'):
        if voc_type not in VOCABULARIES:
            raise ValueError(f'voc_type {voc_type!r}: choose one of {", ".join(VOCABULARIES)}')
        self.voc_type = voc_type
        self.characters = VOCABULARIES[voc_type]
        self.eos, self.padding, self.unknown = range(len(self.characters), len(self.characters) + 3)
        self.ids = {character: index for index, character in enumerate(self.characters)}

    def __len__(self):
        """The number of classes."""
        return len(self.characters) + 3

    def encode(self, label):
        """Class ids of a string with EOS behind; characters outside the vocabulary become UNKNOWN."""
        if self.voc_type == 'LOWERCASE':
            label = label.lower()
        return [self.ids.get(character, self.unknown) for character in label] + [self.eos]

    def decode(self, ids):
        """The string of a sequence of class ids, up to its EOS; PADDING and UNKNOWN print nothing."""
        characters = []
        for index in ids:
            if index == self.eos:
                break
            if index < self.eos:
                characters.append(self.characters[index])
        return ''.join(characters)


def vocabulary_of(num_classes):
    """The vocabulary that has this many classes; ValueError where none has."""
    for voc_type in VOCABULARIES:
        vocabulary = Vocabulary(voc_type)
        if len(vocabulary) == num_classes:
            return vocabulary
    raise ValueError(f'no vocabulary has {num_classes} classes; known are '
                     + ', '.join(f'{name} with {len(Vocabulary(name))}' for name in VOCABULARIES))


def normalize(word):
    """What of a word counts: its letters and digits, lower-cased (the protocol of the seven test sets)."""
    return ''.join(character for character in word.lower() if character in ALPHANUMERIC)
