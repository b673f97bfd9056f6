"""Characters and class ids of the recognizer, and the rule by which a word counts as read."""
import string
import unicodedata
from itertools import takewhile
from pathlib import Path

VOCABULARIES = {
    'LOWERCASE': string.digits + string.ascii_lowercase,
    'ALLCASES': string.digits + string.ascii_letters,
    'ALLCASES_SYMBOLS': string.printable[:94],  # without the six kinds of white space
}
ALPHANUMERIC = frozenset(VOCABULARIES['LOWERCASE'])


def composed(text):
    """Unicode's form NFC: an accented letter is one character, however the text was typed."""
    return text if text.isascii() else unicodedata.normalize('NFC', text)


def read_alphabet(path):
    """The characters of a UTF-8 text file, each once, in its order and without white space.

    OSError or ValueError that names the path where it cannot be read or holds none.
    """
    try:
        characters = ''.join(dict.fromkeys(''.join(composed(Path(path).read_text(encoding='utf-8-sig')).split())))
    except UnicodeDecodeError as error:
        raise ValueError(f'{path}: not a text file in UTF-8 ({error})') from error
    if not characters:
        raise ValueError(f'{path}: no characters in it; write those that the recognizer is to know, in any order')
    return characters


class Vocabulary:
    """Strings to class ids and back: the characters, then EOS, PADDING, UNKNOWN.

    voc_type: a key of VOCABULARIES. alphabet: other characters, a string, in the place of those. case_sensitive: see
    `normalize`. ValueError for an unknown voc_type.
    """

    def __init__(self, voc_type='ALLCASES_SYMBOLS', alphabet=None, case_sensitive=False):
        if alphabet is not None:
            voc_type = next((name for name, known in VOCABULARIES.items() if known == alphabet),
                            f'an alphabet of {len(alphabet)} characters')
        elif voc_type not in VOCABULARIES:
            raise ValueError(f'voc_type {voc_type!r}: choose one of {", ".join(VOCABULARIES)}')
        self.voc_type, self.case_sensitive = voc_type, case_sensitive
        self.characters = VOCABULARIES.get(voc_type, alphabet)
        self.alphabet = None if voc_type in VOCABULARIES else alphabet  # what a file of weights has to carry
        self.eos, self.padding, self.unknown = range(len(self.characters), len(self.characters) + 3)
        self.ids = {character: index for index, character in enumerate(self.characters)}
        for character in self.characters:  # a case that has no class of its own is that of the other case
            for other in (character.lower(), character.upper()):
                self.ids.setdefault(other, self.ids[character])
        for character, other in ('ς', 'Σ'), ('İ', 'i'):  # which are not the lower or upper case of that
            if other in self.ids:
                self.ids.setdefault(character, self.ids[other])

    def __len__(self):
        """The number of classes."""
        return len(self.characters) + 3

    def encode(self, label):
        """Class ids of a string, EOS at the end; characters outside the vocabulary become UNKNOWN."""
        return [self.ids.get(character, self.unknown) for character in composed(label)] + [self.eos]

    def decode(self, ids):
        """The string of a sequence of class ids, up to its EOS; PADDING and UNKNOWN print nothing."""
        read = takewhile(lambda index: index != self.eos, ids)
        return ''.join(self.characters[index] for index in read if index < self.eos)

    def normalize(self, word):
        """The part of a word that is compared: letters and digits, lower-cased; with case_sensitive all, as it is.

        Letters and digits are a to z and 0 to 9, as in the protocol of the seven test sets. With an alphabet of one's
        own they are those of every script, with their marks; where it has none of these, the whole word is compared.
        """
        if not self.case_sensitive and self.alphabet is None:
            return normalize(word)
        word = composed(word)
        if self.case_sensitive or not any(map(is_letter, self.alphabet)):
            return word
        # letter by letter, as `encode` takes them: what it gives for a word is then a right reading of it
        read = (self.characters[self.ids[character]] if character in self.ids else character for character in word)
        return ''.join(character.casefold() for character in read if is_letter(character))

    def same(self, string, label):
        """Whether a string is a right reading of a label; None where the label has nothing that is compared."""
        expected = self.normalize(label)
        return self.normalize(string) == expected if expected else None


def read_vocabulary(voc_type):
    """The vocabulary of a key of VOCABULARIES or of the path of a file of characters; errors as in `read_alphabet`."""
    return Vocabulary(voc_type) if voc_type in VOCABULARIES else Vocabulary(alphabet=read_alphabet(voc_type))


def vocabulary_of(num_classes, alphabet=None):
    """The vocabulary that has this many classes, or that of an alphabet; ValueError where none has."""
    if alphabet is not None:
        return Vocabulary(alphabet=alphabet)
    for voc_type in VOCABULARIES:
        vocabulary = Vocabulary(voc_type)
        if len(vocabulary) == num_classes:
            return vocabulary
    raise ValueError(f'no vocabulary has {num_classes} classes; known are '
                     + ', '.join(f'{name} with {len(Vocabulary(name))}' for name in VOCABULARIES))


def is_letter(character):
    """Whether it is a letter, a mark on one, or a digit, of any script."""
    return unicodedata.category(character)[0] in 'LMN'


def normalize(word):
    """The part of a word that is compared: letters and digits, lower-cased (the protocol of the seven test sets)."""
    return ''.join(character for character in word.lower() if character in ALPHANUMERIC)
