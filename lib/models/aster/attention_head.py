"""Attention decoder: reads one character a step from the encoder's columns; teacher forcing, greedy and beam search.

What does not depend on the state is computed once a sequence: the columns' part of the attention and, on CPUs, the part
of the GRU's gates that comes from the previous character, for every class.
"""
import torch
import torch.nn.functional as F
from torch import nn

LARGEST = 43  # embeddings are clamped to this: exp(2 * 43) fits a float32, and tanh is 1 far below
CACHED = 1 << 18  # numbers, of 4 bytes, that stay in a core's cache


class AttentionUnit(nn.Module):
    """The three layers of additive attention, under the names of the released checkpoint."""

    def __init__(self, state_dim, in_planes, attention_dim):
        super().__init__()
        self.sEmbed = nn.Linear(state_dim, attention_dim)
        self.xEmbed = nn.Linear(in_planes, attention_dim)
        self.wEmbed = nn.Linear(attention_dim, 1)


class DecoderCell(nn.Module):
    """One step of the decoder. The embedding has one row more than there are classes: the start symbol."""

    def __init__(self, num_classes, in_planes, state_dim, attention_dim):
        super().__init__()
        self.attention_unit = AttentionUnit(state_dim, in_planes, attention_dim)
        self.tgt_embedding = nn.Embedding(num_classes + 1, attention_dim)
        self.gru = nn.GRU(attention_dim + in_planes, state_dim, batch_first=True)
        self.fc = nn.Linear(state_dim, num_classes)

    def symbols(self):
        """The input of the GRU for each possible previous symbol, a table.

        On CPUs what the symbol adds to the input gates, (classes + 1, 3 S), computed once a sequence; elsewhere, where
        the GRU is one kernel, its embedding (classes + 1, A).
        """
        embeddings = self.tgt_embedding.weight
        if embeddings.device.type != 'cpu':
            return embeddings
        return F.linear(embeddings, self.gru.weight_ih_l0[:, :embeddings.shape[1]], self.gru.bias_ih_l0)

    def keys(self, columns):
        """The part of the attention that does not depend on the state, for `energy`: columns (N, W, C) -> (N, W, A)."""
        return self.exponents(self.attention_unit.xEmbed(columns))

    @staticmethod
    def in_exponentials(tensor):
        """Whether `energy` takes exp(-2x) of an embedding x, else 2x: in reading on a CPU."""
        return tensor.device.type == 'cpu' and not torch.is_grad_enabled()

    def exponents(self, embedded):
        if self.in_exponentials(embedded):
            return torch.exp(-2 * embedded.clamp(-LARGEST, LARGEST))
        return 2 * embedded

    def energy(self, state, keys):
        """Additive attention before its softmax, less a constant: states (N, K, S), keys (N, W, A) -> (N, K, W).

        tanh x = 2 sigmoid 2x - 1, which is faster, and softmax drops what is added: w . tanh(k + q) becomes
        2 w . sigmoid(2k + 2q). Reading on a CPU writes that sigmoid as 1 / (1 + exp(-2k) exp(-2q)), without an
        exponential for each pair of a column and a state; the gradient of this form is the slower one.
        """
        unit = self.attention_unit
        query, keys = self.exponents(unit.sEmbed(state)).unsqueeze(2), keys.unsqueeze(1)
        if not self.in_exponentials(keys):
            return 2 * unit.wEmbed((keys + query).sigmoid_()).squeeze(3)
        samples, one = max(1, CACHED // (query.shape[1] * keys[0].numel())), keys.new_ones(())
        return 2 * torch.cat([unit.wEmbed(torch.addcmul(one, some_keys, some_queries).reciprocal_()).squeeze(3)
                              for some_keys, some_queries in zip(keys.split(samples), query.split(samples))])

    def forward(self, state, symbols, columns, keys):
        """Advance the states of K beams of N samples.

        state (N, K, S), symbols (N, K, 3 S or A) of the previous ones, see `symbols`, columns (N, W, C), keys
        (N, W, A), see `keys`; returns the new state (N, K, S).
        """
        context = self.energy(state, keys).softmax(2) @ columns  # (N, K, C)
        if state.device.type == 'cpu':
            return self.gru_of_gates(symbols, context, state)
        return self.gru_of_embeddings(symbols, context, state)

    def gru_of_embeddings(self, embeddings, context, state):
        """A step of the GRU on embeddings (N, K, A) and context (N, K, C), concatenated: (N, K, S)."""
        inputs, gru = torch.cat([embeddings, context], dim=2).flatten(0, 1), self.gru
        return torch.gru_cell(inputs, state.flatten(0, 1), gru.weight_ih_l0, gru.weight_hh_l0, gru.bias_ih_l0,
                              gru.bias_hh_l0).view_as(state)

    def gru_of_gates(self, gates, context, state):
        """The same on what the embeddings add to the input gates (N, K, 3 S), written out."""
        of_input = gates + F.linear(context, self.gru.weight_ih_l0[:, self.tgt_embedding.embedding_dim:])
        of_state = F.linear(state, self.gru.weight_hh_l0, self.gru.bias_hh_l0)
        size = state.shape[2]
        reset, update = torch.sigmoid(of_input[..., :2 * size] + of_state[..., :2 * size]).chunk(2, dim=2)
        new = torch.tanh(of_input[..., 2 * size:] + reset * of_state[..., 2 * size:])
        return new + update * (state - new)


class AttentionHead(nn.Module):
    """Attention decoder over `num_classes` classes, of which the last three are EOS, padding and unknown.

    teacher_dropout: share of the true characters that teacher forcing withholds from the next step, which is given
    unknown instead and has to read without them; a number in [0, 1) to set for training.
    """

    def __init__(self, num_classes, in_planes, state_dim, attention_dim):
        super().__init__()
        self.eos, self.bos = num_classes - 3, num_classes
        self.teacher_dropout = 0.0
        self.decoder = DecoderCell(num_classes, in_planes, state_dim, attention_dim)

    def start(self, columns):
        """The start of any decoding: state (N, 1, S) of zeros, keys of the columns, `symbols` of the cell."""
        cell = self.decoder
        state = columns.new_zeros(columns.shape[0], 1, cell.gru.hidden_size)
        return state, cell.keys(columns), cell.symbols()

    def forward(self, columns, targets):
        """Teacher forcing: columns (N, W, C), targets (N, T) int64 -> logits (N, T, classes) of each target."""
        state, keys, table = self.start(columns)
        previous = targets[:, :-1]
        if self.teacher_dropout:
            withheld = torch.rand(previous.shape, device=previous.device) < self.teacher_dropout
            previous = previous.masked_fill(withheld, self.bos - 1)
        previous = F.pad(previous, (1, 0), value=self.bos)
        symbols = F.embedding(previous, table)  # (N, T, 3 S or A)
        states = []
        for t in range(targets.shape[1]):
            state = self.decoder(state, symbols[:, t:t + 1], columns, keys)
            states.append(state)
        return self.decoder.fc(torch.cat(states, dim=1))

    def greedy(self, columns, max_len):
        """The likeliest class at each step; returns what `beam_search` returns."""
        ids = torch.full((len(columns), max_len), self.eos, device=columns.device)
        scores = torch.zeros(len(columns), device=columns.device)
        rows = torch.arange(len(columns), device=columns.device)  # the samples still being read
        symbol = torch.full_like(rows, self.bos)
        state, keys, table = self.start(columns)
        for t in range(max_len):
            state = self.decoder(state, table[symbol].unsqueeze(1), columns, keys)
            score, symbol = self.decoder.fc(state[:, 0]).float().log_softmax(1).max(1)
            ids[rows, t] = symbol
            scores[rows] += score
            keep = (symbol != self.eos).nonzero()[:, 0]
            if len(keep) == 0:
                break
            if len(keep) < len(rows):
                rows, symbol, state, columns, keys = (x[keep] for x in (rows, symbol, state, columns, keys))
        return ids[:, :t + 1], scores

    def beam_search(self, columns, width, max_len):
        """The likeliest string among those that `width` beams meet.

        A beam that emits EOS is kept with its summed log probability and not extended. The first `width` to end
        compete, as in the original implementation (those that end later replace none of them); where fewer end within
        max_len, the unfinished beams compete too. So a sample is settled, exactly as after max_len steps, as soon as
        `width` beams have ended, or no unfinished one scores above the best ended: a score can only fall.

        columns (N, W, C) -> ids (N, L) with L <= max_len, EOS from a string's end on; scores (N,), summed log
        probability of the string and its EOS.
        """
        device, classes = columns.device, self.decoder.fc.out_features
        best_ids = torch.full((len(columns), max_len), self.eos, device=device)
        best_scores = torch.full((len(columns),), float('-inf'), device=device)
        rows = torch.arange(len(columns), device=device)  # the samples not yet settled
        ended_count = torch.zeros_like(rows)
        symbols = torch.full((len(columns), 1), self.bos, device=device)  # one beam, which branches in the first step
        ids = symbols.new_empty(len(columns), 1, 0)
        scores = torch.zeros(len(columns), 1, device=device)
        state, keys, table = self.start(columns)

        def offer(candidates):
            """Keep a sample's best candidate, scores (n, width) with -inf for none, where it beats the one before."""
            score, beam = candidates.max(1)
            better = (score > best_scores[rows]).nonzero()[:, 0]
            best_scores[rows[better]] = score[better]
            best_ids[rows[better]] = F.pad(ids[better, beam[better]], (0, max_len - ids.shape[2]), value=self.eos)

        for _ in range(max_len):
            state = self.decoder(state, table[symbols], columns, keys)
            totals = scores.unsqueeze(2) + self.decoder.fc(state).float().log_softmax(2)  # (n, width, classes)
            scores, picks = totals.flatten(1).topk(width)
            parents, symbols = picks // classes, picks % classes
            state, ids = (x.gather(1, parents.unsqueeze(2).expand(-1, -1, x.shape[2])) for x in (state, ids))
            ids = torch.cat([ids, symbols.unsqueeze(2)], dim=2)

            ended = symbols == self.eos
            offer(scores.masked_fill(~ended, float('-inf')))
            ended_count = ended_count + ended.sum(1)
            scores = scores.masked_fill(ended, float('-inf'))
            keep = ((ended_count < width) & (scores.amax(1) > best_scores[rows])).nonzero()[:, 0]
            if len(keep) < len(rows):
                rows, ended_count, symbols, ids, scores, state, columns, keys = (
                    x[keep] for x in (rows, ended_count, symbols, ids, scores, state, columns, keys))
            if len(keep) == 0:
                break
        else:
            offer(scores)
        longest = int((best_ids != self.eos).sum(1).amax())
        return best_ids[:, :longest + 1], best_scores
