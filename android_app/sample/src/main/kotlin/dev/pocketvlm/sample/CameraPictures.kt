package dev.pocketvlm.sample

import android.content.ContentProvider
import android.content.ContentValues
import android.content.Context
import android.database.Cursor
import android.net.Uri
import android.os.ParcelFileDescriptor
import java.io.File
import java.io.FileNotFoundException

/**
 * Lends one file to the camera app: the picture that is being taken. Nobody else can open it, since the provider is not
 * exported and the right is given with the intent.
 */
public class CameraPictures : ContentProvider() {
    override fun onCreate(): Boolean = true

    override fun getType(uri: Uri): String = "image/jpeg"

    override fun openFile(uri: Uri, mode: String): ParcelFileDescriptor {
        if (uri != ADDRESS) throw FileNotFoundException("there is no $uri")
        return ParcelFileDescriptor.open(file(checkNotNull(context)), ParcelFileDescriptor.parseMode(mode))
    }

    override fun query(
        uri: Uri,
        projection: Array<String>?,
        selection: String?,
        selectionArgs: Array<String>?,
        sortOrder: String?,
    ): Cursor? = null

    override fun insert(uri: Uri, values: ContentValues?): Uri? = null

    override fun delete(uri: Uri, selection: String?, selectionArgs: Array<String>?): Int = 0

    override fun update(uri: Uri, values: ContentValues?, selection: String?, selectionArgs: Array<String>?): Int = 0

    internal companion object {
        val ADDRESS: Uri = Uri.parse("content://dev.pocketvlm.sample.camera/picture.jpg")

        fun file(context: Context): File = File(context.cacheDir, "camera/picture.jpg").apply { parentFile?.mkdirs() }
    }
}
