"""A prompt's forward pass put together by hand, and attention as the model's own eager code gives it."""

import torch
from torch import Tensor

from relevancy.models.model import Model


class ByHand:
    """One question about one picture; `embeddings` (1, tokens, width) is what the decoder reads."""

    def __init__(self, model: Model, picture, question: str, said: tuple[int, ...] = ()) -> None:
        self.model, self.hf = model, model.model
        self.inputs = model.prepare([picture], [question], [said])
        self.places = (self.inputs["input_ids"][0] == model.image_token_id).nonzero().squeeze(1)
        self.embeddings = self.embed(self.inputs["pixel_values"])
        self.hidden = self.embed(torch.zeros_like(self.inputs["pixel_values"]))
        self.id = int(self.logits(self.embeddings).argmax())

    def features(self, pixels: Tensor) -> Tensor:
        """What the connector reads, (1, patches, channels): the second last hidden state, without the class token."""
        tower = self.hf.get_encoder(modality="image")
        with torch.no_grad():
            return tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]

    def embed(self, pixels: Tensor, features: Tensor | None = None) -> Tensor:
        words = self.hf.get_input_embeddings()(self.inputs["input_ids"]).detach().clone()
        patches = self.hf.model.multi_modal_projector(self.features(pixels) if features is None else features)
        words[0, self.places] = patches[0] if features is not None else patches[0].detach()
        return words

    def logits(self, embeddings: Tensor) -> Tensor:
        hidden = self.hf.get_decoder()(inputs_embeds=embeddings, attention_mask=self.inputs["attention_mask"])
        return self.hf.get_output_embeddings()(hidden.last_hidden_state[:, -1])[0]

    def score(self, embeddings: Tensor, token: int | None = None) -> Tensor:
        return self.logits(embeddings)[self.id if token is None else token]

    def without(self, patches: list[int], token: int | None = None) -> float:
        """The score with some patches' embeddings those of a picture of one color."""
        changed = self.embeddings.clone()
        changed[0, self.places[patches]] = self.hidden[0, self.places[patches]]
        with torch.no_grad():
            return float(self.score(changed, token))

    def attentions(self) -> tuple[list[Tensor], Tensor]:
        """Each layer's probabilities (1, heads, tokens, tokens), differentiable, and the last logits (vocabulary,)."""
        decoder = self.hf.get_decoder()
        before = decoder.config._attn_implementation
        decoder.set_attn_implementation("eager")
        try:
            embeddings = self.embeddings.clone().requires_grad_()
            output = decoder(
                inputs_embeds=embeddings, attention_mask=self.inputs["attention_mask"], output_attentions=True
            )
        finally:
            decoder.set_attn_implementation(before)
        return list(output.attentions), self.hf.get_output_embeddings()(output.last_hidden_state[:, -1])[0]
