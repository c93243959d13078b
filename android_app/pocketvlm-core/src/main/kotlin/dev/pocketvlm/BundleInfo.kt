package dev.pocketvlm

import dev.pocketvlm.bundle.Bundle
import dev.pocketvlm.bundle.PreferredEngine
import dev.pocketvlm.bundle.choose
import dev.pocketvlm.runtime.factsHere
import dev.pocketvlm.runtime.neededBytes
import dev.pocketvlm.runtime.preferenceOf

/**
 * What a bundle says of itself, and what running it would take. Bytes, tokens, pixels.
 *
 * @property name of the model
 * @property limits what it can and cannot do, in words; null where the export said nothing
 * @property seesImages whether it takes pictures
 * @property kvLength most tokens of a conversation: what is said and the answers
 * @property bytes of all its files
 * @property predictedMemoryBytes what a model with one conversation takes
 * @property engine that this library runs it with on this device; null where it has none for it
 * @property skipped engines that the bundle prefers, or all where [engine] is null, each with why it does not run here
 * @property sha256 of the manifest, which has those of all files: what tells bundles apart
 */
public class BundleInfo internal constructor(
    public val name: String,
    public val limits: String?,
    public val seesImages: Boolean,
    public val kvLength: Int,
    public val bytes: Long,
    public val predictedMemoryBytes: Long,
    public val sha256: String,
    public val engine: String?,
    public val skipped: Map<String, String>,
    internal val preference: List<PreferredEngine>,
) {
    override fun toString(): String = "$name, $bytes bytes, $kvLength tokens"
}

internal fun infoOf(bundle: Bundle): BundleInfo = with(bundle.manifest) {
    val preference = preferenceOf(this)
    val choice = choose(preference, factsHere())
    BundleInfo(
        model.name, model.limits, vision != null, kvCache.length, files.values.sumOf { it.bytes }, neededBytes(bundle), sha256,
        choice.engine, choice.skipped, preference,
    )
}
